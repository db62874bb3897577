package ocr

import (
	"slices"
	"strings"
)

// The machine-readable zones of ICAO 9303: parts 4 (TD3, passports), 5 (TD1, cards) and 7 (MRV-A and MRV-B, visas).
type layout struct {
	kinds  string // first letters
	width  int
	rows   int
	number place
	birth  place
	sex    place
	expiry place
	nation place
	names  int     // the row of the names
	after  int     // where they begin in it
	checks []check // the first three are those of number, birth and expiry
}

// place is a part of a zone. Rows and columns count from 0.
type place struct{ row, from, to int }

// check is a digit, and what it is computed of, end to end.
type check struct {
	digit place
	of    []place
}

func at(row, from, to int) place { return place{row, from, to} }

func digit(row, column int) place { return place{row, column, column + 1} }

// secondRow is what passports and visas have in common.
func secondRow(kinds string, width int, more ...check) layout {
	number, birth, expiry := at(1, 0, 9), at(1, 13, 19), at(1, 21, 27)
	return layout{
		kinds: kinds, width: width, rows: 2, number: number, birth: birth, sex: at(1, 20, 21), expiry: expiry, nation: at(1, 10, 13), after: 5,
		checks: append([]check{{digit(1, 9), []place{number}}, {digit(1, 19), []place{birth}}, {digit(1, 27), []place{expiry}}}, more...),
	}
}

var layouts = []layout{
	secondRow("P", 44,
		check{digit(1, 42), []place{at(1, 28, 42)}},
		check{digit(1, 43), []place{at(1, 0, 10), at(1, 13, 20), at(1, 21, 43)}}),
	secondRow("V", 44),
	secondRow("V", 36),
	{
		kinds: "ACI", width: 30, rows: 3, number: at(0, 5, 14), birth: at(1, 0, 6), sex: at(1, 7, 8), expiry: at(1, 8, 14), nation: at(1, 15, 18), names: 2,
		checks: []check{
			{digit(0, 14), []place{at(0, 5, 14)}},
			{digit(1, 6), []place{at(1, 0, 6)}},
			{digit(1, 14), []place{at(1, 8, 14)}},
			{digit(1, 29), []place{at(0, 5, 30), at(1, 0, 7), at(1, 8, 15), at(1, 18, 29)}},
		},
	},
}

// zone is what a machine-readable zone says.
type zone struct {
	text                                               string // its rows
	names, number, birth, sex, expiry, country, nation reading
}

// row is a line that may be one of a zone.
type row struct {
	text  string
	words line
}

// rows are lines in the letters of zones. Fillers are often read as quotation marks, or as letters between other fillers.
func rows(lines []line) []row {
	var found []row
	for _, one := range lines {
		text := strings.NewReplacer(" ", "", "«", "<<", "‹", "<", "{", "<", "(", "<", "£", "<").Replace(one.String())
		text = strings.Map(func(r rune) rune {
			switch {
			case r == '<' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z':
				return r
			case r == 'c' || r == 'e' || r == 'k':
				return '<' // what a filler is taken for: there are no small letters in a zone
			case r >= 'a' && r <= 'z':
				return r - 'a' + 'A'
			}
			return -1
		}, text)
		if len(text) >= 26 && strings.Contains(text, "<") {
			found = append(found, row{text, one})
		}
	}
	return found[max(0, len(found)-mostRows):]
}

// mostRows are looked at, from the end, which is where zones stand.
const mostRows = 16

// weight is the value of a letter in check digits.
func weight(letter byte) int {
	switch {
	case letter >= '0' && letter <= '9':
		return int(letter - '0')
	case letter >= 'A' && letter <= 'Z':
		return int(letter-'A') + 10
	}
	return 0
}

// checkDigit computes the digit of a text.
func checkDigit(text string) byte {
	sum := 0
	for i := range len(text) {
		sum += weight(text[i]) * [3]int{7, 3, 1}[i%3]
	}
	return byte('0' + sum%10)
}

// widths are what a row may have been before a letter was read that is none, or a filler was not: rows of the wanted width.
func widths(text string, width int) []string {
	var made []string
	switch len(text) - width {
	case 0:
		made = []string{text}
	case 1:
		for i := range len(text) {
			made = append(made, text[:i]+text[i+1:])
		}
	case -1:
		for i := range len(text) + 1 {
			made = append(made, text[:i]+"<"+text[i:])
		}
	}
	if run := strings.LastIndex(text, "<<"); run >= 0 {
		// A run of fillers is where they are miscounted.
		if short := width - len(text); short > 0 && short <= 8 {
			made = append(made, text[:run]+strings.Repeat("<", short)+text[run:])
		} else if over := -short; over > 0 && over <= 8 {
			if fewer := strings.Replace(text, strings.Repeat("<", over+1), "<", 1); len(fewer) == width {
				made = append(made, fewer)
			}
		}
	}
	slices.Sort(made)
	return slices.Compact(made)
}

// attempt is a zone under a layout.
type attempt struct {
	layout *layout
	rows   []string
	words  []line
	holds  []bool // by check
	score  int
	rival  bool // another number is as likely
}

func (a *attempt) get(p place) string { return a.rows[p.row][p.from:p.to] }

func (a *attempt) set(p place, text string) {
	a.rows[p.row] = a.rows[p.row][:p.from] + text + a.rows[p.row][p.to:]
}

// judge repairs what can only be digits or letters, then the number where that makes its check hold, and counts the checks that do.
func (a *attempt) judge() {
	for _, p := range []place{a.layout.birth, a.layout.expiry} {
		a.set(p, asDigit.Replace(a.get(p)))
	}
	for _, c := range a.layout.checks {
		a.set(c.digit, asDigit.Replace(a.get(c.digit)))
	}
	for _, p := range []place{a.layout.nation, at(0, 2, 5), at(a.layout.names, a.layout.after, a.layout.width)} {
		a.set(p, asLetter.Replace(a.get(p)))
	}
	if number := a.layout.checks[0]; !a.check(number) {
		if fixed := confused(a.get(a.layout.number), a.get(number.digit)[0]); fixed != "" {
			a.set(a.layout.number, fixed)
			a.score -= 2
		}
	}
	for _, c := range a.layout.checks {
		holds := a.check(c)
		a.holds = append(a.holds, holds)
		if holds {
			a.score += 10
		}
	}
	if strings.Contains("MFX<", a.get(a.layout.sex)) {
		a.score++
	}
	if digits(a.get(a.layout.nation)) == "" {
		a.score++
	}
}

func (a *attempt) check(c check) bool {
	text := ""
	for _, p := range c.of {
		text += a.get(p)
	}
	said := a.get(c.digit)
	if strings.Trim(text, "<") == "" {
		// A part that is empty has a filler for a digit, or the zero; the first three are not.
		return len(a.holds) >= 3 && strings.Contains("<0", said)
	}
	return said[0] == checkDigit(text)
}

// pairs are what is taken for each other.
var pairs = map[byte]byte{'O': '0', '0': 'O', 'I': '1', '1': 'I', 'B': '8', '8': 'B', 'S': '5', '5': 'S', 'Z': '2', '2': 'Z'}

// confused gives the only text that differs in one such letter and has the digit; "" where there are none or more, for then nothing is
// proven. Of two letters there are always some that happen to fit.
func confused(text string, digit byte) (fits string) {
	for i := range len(text) {
		other, known := pairs[text[i]]
		if !known {
			continue
		}
		if changed := text[:i] + string(other) + text[i+1:]; checkDigit(changed) == digit {
			if fits != "" {
				return ""
			}
			fits = changed
		}
	}
	return fits
}

// readZone finds the zone among lines; printed says whether a text is printed elsewhere on the page, which decides
// between readings that no check tells apart.
func readZone(lines []line, printed func(string) bool) *attempt {
	var attempts []*attempt
	found := rows(lines)
	for i := range layouts {
		l := &layouts[i]
		for from := 0; from+l.rows <= len(found); from++ {
			if !strings.Contains(l.kinds, found[from].text[:1]) {
				continue
			}
			for _, rows := range l.combine(found[from : from+l.rows]) {
				a := &attempt{layout: l, rows: rows}
				for i, one := range found[from : from+l.rows] {
					a.words = append(a.words, one.words)
					if i != l.names {
						a.score -= effort(one.text, rows[i])
					}
				}
				a.judge()
				if printed(strings.Trim(a.get(l.number), "<")) {
					a.score += 5
				}
				attempts = append(attempts, a)
			}
		}
	}
	if len(attempts) == 0 {
		return nil
	}
	best := slices.MaxFunc(attempts, func(a, b *attempt) int { return a.score - b.score })
	best.rival = slices.ContainsFunc(attempts, func(a *attempt) bool {
		return a.score >= best.score-1 && a.get(a.layout.number) != best.get(best.layout.number)
	})
	// A zone of which less holds than two checks is more likely none.
	if best.score < 20 {
		return nil
	}
	return best
}

// effort is how far a row is from what was read. Something before or behind it is likelier than a letter too many within.
func effort(read, row string) int {
	if strings.Contains(read, row) {
		return len(read) - len(row)
	}
	return 2 * max(1, len(read)-len(row), len(row)-len(read))
}

// combine gives each choice of widths for some rows. That of the names has no checks to choose by, and fillers at its end.
func (l *layout) combine(found []row) [][]string {
	made := [][]string{nil}
	for i, one := range found {
		choices := []string{(one.text + strings.Repeat("<", l.width))[:l.width]}
		if i != l.names {
			choices = widths(one.text, l.width)
		}
		var longer [][]string
		for _, before := range made {
			for _, text := range choices {
				longer = append(longer, append(slices.Clone(before), text))
			}
		}
		made = longer
	}
	return made
}

// reading of a zone: what a check proves is surer than its words, whose letters no language knows.
func (a *attempt) reading(p place, value string, check int) reading {
	got := reading{value: value, words: a.words[p.row]}
	if check >= 0 {
		if got.doubtful = !a.holds[check]; !got.doubtful {
			got.proven = max(provenByCheck, certainty(got.words))
		}
	}
	return got
}

// provenByCheck is the confidence of what a check digit confirms: one of ten errors of any kind passes it.
const provenByCheck = 90

func (a *attempt) zone() zone {
	l := a.layout
	z := zone{text: strings.Join(a.rows, "\n")}
	z.number = a.reading(l.number, strings.Trim(a.get(l.number), "<"), 0)
	if z.number.number = true; a.rival {
		z.number.doubtful, z.number.proven = true, 0
	}
	z.birth, z.expiry = a.reading(l.birth, "", 1), a.reading(l.expiry, "", 2)
	z.birth.date(a.get(l.birth), true)
	z.expiry.date(a.get(l.expiry), false)
	z.sex = a.reading(l.sex, strings.Trim(a.get(l.sex), "<"), -1)
	z.country = a.reading(at(0, 2, 5), strings.Trim(a.rows[0][2:5], "<"), -1)
	z.nation = a.reading(l.nation, strings.Trim(a.get(l.nation), "<"), -1)
	z.names = a.reading(at(l.names, l.after, l.width), latinName(a.rows[l.names][l.after:]), -1)
	return z
}

// date reads six digits, the year's last two first; births are not to come.
func (r *reading) date(yymmdd string, born bool) {
	value, ok := calendar(yymmdd[:2], yymmdd[2:4], yymmdd[4:])
	if !ok {
		r.value, r.doubtful, r.proven = yymmdd, true, 0
		return
	}
	if born && value > today() {
		value = "19" + value[2:]
	}
	r.value = value
}

// latinName is given names before the surname, out of SURNAME<<GIVEN<NAMES<<<<.
func latinName(text string) string {
	surname, given, _ := strings.Cut(strings.Trim(text, "<"), "<<")
	given, _, _ = strings.Cut(given, "<<") // what follows more fillers is one that was misread
	return strings.TrimSpace(strings.ReplaceAll(given+" "+surname, "<", " "))
}

// zone finds the machine-readable zone, and compares what it says, by fields, with what is printed.
func (d *document) zone(fields func(zone) map[string]reading) {
	printed := func(text string) bool {
		return slices.ContainsFunc(d.lines, func(one line) bool {
			return slices.ContainsFunc(one, func(w word) bool { return strings.ToUpper(w.text) == text })
		})
	}
	best := readZone(d.lines, printed)
	if best == nil {
		return
	}
	z := best.zone()
	d.note("mrz", reading{value: z.text, words: slices.Concat(best.words...), proven: best.proof(), doubtful: best.proof() == 0})
	named := fields(z)
	named["fullName"] = z.names
	for name, machine := range named {
		d.agree(name, machine)
	}
	// A country's name and its code are not to be compared.
	if z.nation.value != "" {
		d.note("nationality", z.nation)
	}
}

// proof is the confidence of a zone of which every check holds; 0: one does not.
func (a *attempt) proof() float64 {
	if a.rival || slices.Contains(a.holds, false) {
		return 0
	}
	return provenByCheck
}

// agree compares what is printed with what the zone says. Two readings of different letters that are the same prove each
// other; two that are not are for somebody to look at.
func (d *document) agree(name string, machine reading) {
	if machine.value == "" {
		return
	}
	visual, known := d.found[name]
	switch {
	case !known:
		d.note(name, machine)
		return
	case same(visual.value, machine.value):
		visual.proven = max(provenByCheck, certainty(visual.words), machine.proven)
		visual.doubtful = false
	case machine.proven > 0 && !machine.doubtful && !blind(visual.value, machine.value):
		visual, visual.doubtful = machine, true
	default:
		visual.doubtful = true
	}
	d.found[name] = visual
}

func same(a, b string) bool { return a != "" && plain(a) == plain(b) }

// blind says that two numbers differ only where no check digit could tell: these pairs differ by ten, or by twenty.
func blind(a, b string) bool {
	alike := strings.NewReplacer("L", "1", "G", "6")
	return alike.Replace(a) == alike.Replace(b)
}

func joined(text string) string { return strings.ReplaceAll(text, " ", "") }
