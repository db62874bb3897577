package ocr

import (
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Below these a person has to look, as the application has it.
const (
	sureText   = 70
	sureNumber = 85
)

// reading is a value as it was found.
type reading struct {
	value    string
	words    []word
	number   bool    // that identifies somebody
	doubtful bool    // a check failed
	proven   float64 // the confidence that a check gives; 0: that of the words
}

// kind takes a value from the words where it should be.
type kind func([]word) (reading, bool)

// certainty is the confidence of words, by their letters.
func certainty(words []word) float64 {
	sum, letters := weigh([]line{words})
	if letters == 0 {
		return 0
	}
	return sum / letters
}

// text is everything.
func text(words []word) (reading, bool) {
	value := strings.Trim(line(words).String(), " :;,.|-")
	return reading{value: value, words: words}, plain(value) != ""
}

// name is the first words that a name may consist of, with one of two letters at least.
func name(words []word) (reading, bool) {
	end, long := 0, false
	for ; end < len(words); end++ {
		letters := strings.Map(func(r rune) rune {
			if strings.ContainsRune(".'’-,", r) {
				return -1
			}
			return r
		}, words[end].text)
		if letters == "" || strings.ContainsFunc(letters, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsMark(r) }) {
			break
		}
		long = long || len(letters) > 1
	}
	got, ok := text(words[:end])
	return got, ok && long
}

// one is a single word of those that are possible, by what it is told as.
func one(values map[string]string) kind {
	return func(words []word) (reading, bool) {
		for i, w := range words {
			if value, ok := values[plain(w.text)]; ok {
				return reading{value: value, words: words[i : i+1]}, true
			}
		}
		return reading{}, false
	}
}

var (
	sex    = one(map[string]string{"m": "M", "f": "F", "x": "X", "male": "M", "female": "F"})
	gender = one(map[string]string{
		"m": "Male", "male": "Male", "f": "Female", "female": "Female", "t": "Transgender", "transgender": "Transgender",
	})
	postal = regexp.MustCompile(`\b[1-9]\d{2} ?\d{3}\b`)
)

// pattern is the first part of a text that has a form, of which the whole is told, or the first group where there is one.
func pattern(expression string) kind {
	form := regexp.MustCompile(expression)
	return func(words []word) (reading, bool) {
		groups, used := find(form, words)
		if groups == nil {
			return reading{}, false
		}
		return reading{value: groups[len(groups)-1], words: used}, true
	}
}

// find matches words that are joined by spaces, and gives the groups and the words that the match touches.
func find(form *regexp.Regexp, words []word) (groups []string, used []word) {
	joined := line(words).String()
	places := form.FindStringSubmatchIndex(joined)
	if places == nil {
		return nil, nil
	}
	at := 0
	for _, w := range words {
		if at < places[1] && at+len(w.text) > places[0] {
			used = append(used, w)
		}
		at += len(w.text) + 1
	}
	return form.FindStringSubmatch(joined), used
}

// dates are the ways of writing one; each has day, month and year in the order that follows.
var dates = []struct {
	form  *regexp.Regexp
	order string
}{
	{regexp.MustCompile(`\b(\d{4}) ?[./-] ?(\d{1,2}) ?[./-] ?(\d{1,2})\b`), "ymd"},
	{regexp.MustCompile(`\b(\d{1,2}) ?[./-] ?(\d{1,2}) ?[./-] ?(\d{4}|\d{2})\b`), "dmy"},
	{regexp.MustCompile(`(?i)\b(\d{1,2})[ ./-]*(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[ .,/-]*(\d{4}|\d{2})\b`), "dmy"},
	{regexp.MustCompile(`(?i)\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]* *(\d{1,2})[ .,/-]+(\d{4})\b`), "mdy"},
}

// date is the first date of a text. One that is in no calendar is told as it was read, for somebody to look at.
func date(words []word) (reading, bool) {
	for _, way := range dates {
		groups, used := find(way.form, words)
		if groups == nil {
			continue
		}
		part := func(which string) string { return groups[1+strings.Index(way.order, which)] }
		value, ok := calendar(part("y"), part("m"), part("d"))
		if !ok {
			value = groups[0]
		}
		return reading{value: value, words: used, doubtful: !ok}, true
	}
	return reading{}, false
}

// birth is the date of one: not to come, and of nobody who is older than anybody was.
func birth(words []word) (reading, bool) {
	got, ok := date(words)
	if day, err := time.Parse(time.DateOnly, got.value); err == nil {
		if now := time.Now(); day.After(now) {
			if centuryGuessed(got) {
				got.value = day.AddDate(-100, 0, 0).Format(time.DateOnly)
			} else {
				got.doubtful = true
			}
		} else if now.Sub(day) > 125*366*24*time.Hour {
			got.doubtful = true
		}
	}
	return got, ok
}

// centuryGuessed says that a date was printed with two digits of the year alone.
func centuryGuessed(got reading) bool {
	return len(got.value) == len(time.DateOnly) && !strings.Contains(line(got.words).String(), got.value[:4])
}

const months = "janfebmaraprmayjunjulaugsepoctnovdec"

// calendar is a date as ISO 8601 has it. Two digits of a year are of this century.
func calendar(year, month, day string) (string, bool) {
	if at := strings.Index(months, strings.ToLower(month)); len(month) == 3 && at >= 0 {
		month = strconv.Itoa(at/3 + 1)
	}
	if len(year) == 2 {
		year = "20" + year
	}
	parsed, err := time.Parse("2006-1-2", year+"-"+strings.TrimPrefix(month, "0")+"-"+strings.TrimPrefix(day, "0"))
	return parsed.Format(time.DateOnly), err == nil
}

// follow marks dates that are in the wrong order: nothing expires before it is issued.
func (d *document) follow(earlier, later string) {
	first, last := d.found[earlier], d.found[later]
	if len(first.value) == len(time.DateOnly) && len(last.value) == len(time.DateOnly) && last.value < first.value {
		first.doubtful, last.doubtful = true, true
		d.found[earlier], d.found[later] = first, last
	}
}

// Letters and digits that are taken for each other.
var (
	asDigit  = strings.NewReplacer("O", "0", "Q", "0", "D", "0", "I", "1", "L", "1", "|", "1", "Z", "2", "S", "5", "G", "6", "B", "8")
	asLetter = strings.NewReplacer("0", "O", "1", "I", "2", "Z", "5", "S", "6", "G", "8", "B")
)

// shaped finds a number of which each place is a letter (A) or a digit (9), in one word or in some. What was repaired to fit, two
// places at most, is doubtful: nothing proves it.
func shaped(shape string) kind {
	return func(words []word) (best reading, ok bool) {
		for from := range words {
			compact := ""
			for to := from; to < len(words) && len(compact) < len(shape); to++ {
				compact += strings.ToUpper(plain(words[to].text))
				if len(compact) != len(shape) {
					continue
				}
				value, repairs := fit(compact, shape)
				if repairs > 2 || ok && repairs > 0 {
					continue
				}
				best, ok = reading{value: value, words: words[from : to+1], number: true, doubtful: repairs > 0}, true
				if repairs == 0 {
					return best, true
				}
			}
		}
		return best, ok
	}
}

// fit repairs a text to a shape; the count is more than it is long where that cannot be.
func fit(text, shape string) (value string, repairs int) {
	var out strings.Builder
	for i := range len(text) {
		letter := text[i : i+1]
		fixed, fits := asLetter.Replace(letter), func(r byte) bool { return r >= 'A' && r <= 'Z' }
		if shape[i] == '9' {
			fixed, fits = asDigit.Replace(letter), func(r byte) bool { return r >= '0' && r <= '9' }
		}
		if !fits(fixed[0]) {
			return "", len(shape) + 1
		}
		if fixed != letter {
			repairs++
		}
		out.WriteString(fixed)
	}
	return out.String(), repairs
}

// digits are those of a text.
func digits(text string) string {
	return strings.Map(func(r rune) rune {
		if r < '0' || r > '9' {
			return -1
		}
		return r
	}, text)
}

func today() string { return time.Now().Format(time.DateOnly) }
