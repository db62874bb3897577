package ocr

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
)

// entry is one thing that documents of a type say, and how it is introduced there.
type entry struct {
	name   string // of the field; "" for what only ends the value before it
	labels string // separated by |
	read   kind
}

// span is a label in a line: the words from from up to to.
type span struct{ line, from, to, entry int }

// form is a document beside the labels that are to be found in it.
type form struct {
	*document
	entries []entry
	spans   []span
	stops   [][]int // where labels begin, by line, from left to right
}

// fill finds what stands beside labels, or below them. What was found already stays.
func (d *document) fill(entries []entry) *form {
	f := &form{document: d, entries: entries, stops: make([][]int, len(d.lines))}
	for i, one := range d.lines {
		for at := 0; at < len(one); {
			if longest, ok := f.label(one, at); ok {
				longest.line = i
				f.spans = append(f.spans, longest)
				f.stops[i] = append(f.stops[i], at)
				at = longest.to
			} else {
				at++
			}
		}
	}
	for _, s := range f.spans {
		one := entries[s.entry]
		if _, known := d.found[one.name]; known || one.read == nil {
			continue
		}
		for _, words := range f.places(s) {
			if got, ok := one.read(words); ok {
				d.note(one.name, got)
				break
			}
		}
	}
	return f
}

// note keeps a reading, the first of its name.
func (d *document) note(name string, got reading) {
	if d.found == nil {
		d.found = map[string]reading{}
	}
	if _, known := d.found[name]; !known {
		d.found[name] = got
	}
}

// label finds the longest label that starts at a word.
func (f *form) label(one line, at int) (longest span, ok bool) {
	for i, entry := range f.entries {
		for label := range strings.SplitSeq(entry.labels, "|") {
			if to := starts(one, at, joined(label)); to > longest.to {
				longest, ok = span{from: at, to: to, entry: i}, true
			}
		}
	}
	return longest, ok
}

// starts gives the end of a label that begins with the word at; 0: it does not. Spaces are often read where none are, and the other
// way round, so only letters count.
func starts(one line, at int, label string) int {
	if plain(one[at].text) == "" {
		return 0
	}
	for text := ""; at < len(one) && len(text) < len(label); at++ {
		if text += plain(one[at].text); len(text) == len(label) && alike(text, label) {
			return at + 1
		}
	}
	return 0
}

// plain is a text without case and punctuation.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, text)
}

// alike forgives one wrong letter of five or more.
func alike(text, label string) bool {
	if text == label {
		return true
	}
	if len(label) < 5 || len(text) != len(label) {
		return false
	}
	wrong := 0
	for i := range len(text) {
		if text[i] != label[i] {
			wrong++
		}
	}
	return wrong == 1
}

// places are where the value of a label may stand: after it in its line, right of its line, and in the next line below.
func (f *form) places(s span) [][]word {
	return [][]word{f.after(s), f.right(s), f.below(s)}
}

// end is where the next label begins in a line, or the line's end.
func (f *form) end(number, from int) int {
	for _, stop := range f.stops[number] {
		if stop >= from {
			return stop
		}
	}
	return len(f.lines[number])
}

func (f *form) after(s span) []word { return trimmed(f.lines[s.line][s.to:f.end(s.line, s.to)]) }

// right is the nearest other line at the same height, when the label ends its own.
func (f *form) right(s span) []word {
	own := f.lines[s.line]
	if s.to < len(own) {
		return nil
	}
	box := own[s.to-1].box
	best := -1
	for i, other := range f.lines {
		first := other[0].box
		middle := (first.Min.Y + first.Max.Y) / 2
		if i == s.line || first.Min.X < box.Max.X || middle < box.Min.Y || middle > box.Max.Y {
			continue
		}
		if best < 0 || first.Min.X < f.lines[best][0].box.Min.X {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	return trimmed(f.lines[best][:f.end(best, 0)])
}

// below is what stands under a label, up to where the next label of its line begins.
func (f *form) below(s span) []word {
	own := f.lines[s.line]
	limit := 1 << 30
	if next := f.end(s.line, s.to); next < len(own) {
		limit = own[next].box.Min.X
	}
	// A label in two languages begins with the other one.
	from := s.from
	for from > 0 && strings.HasSuffix(own[from-1].text, "/") {
		from--
	}
	return f.under(own[from:s.to], limit)
}

// under gives the nearest line below words, and what of it stands between their left edge and a limit.
func (f *form) under(words []word, limit int) (under []word) {
	left, box := words[0].box.Min.X, words[0].box
	for _, w := range words {
		box = box.Union(w.box)
	}
	height := words[0].box.Dy()
	reach := box.Max.Y + 3*height
	for i, one := range f.lines {
		from := slices.IndexFunc(one, func(w word) bool { return w.box.Max.X > left && w.box.Min.X >= left-height })
		if from < 0 || one[from].box.Min.X >= limit {
			continue
		}
		if middle := (one[from].box.Min.Y + one[from].box.Max.Y) / 2; middle <= box.Max.Y || middle >= reach {
			continue
		}
		to := from
		for stop := f.end(i, from); to < stop && one[to].box.Min.X < limit; {
			to++
		}
		under, reach = one[from:to], (one[from].box.Min.Y+one[from].box.Max.Y)/2
	}
	return trimmed(under)
}

// trimmed is without the marks that stand between a label and its value.
func trimmed(words []word) []word {
	for len(words) > 0 && plain(words[0].text) == "" {
		words = words[1:]
	}
	for len(words) > 0 && plain(words[len(words)-1].text) == "" {
		words = words[:len(words)-1]
	}
	return words
}

// block is the lines that follow a label, as an address has them: up to the next label, a gap, or an Indian postal code.
func (f *form) block(name string) {
	for _, s := range f.spans {
		if f.entries[s.entry].name != name {
			continue
		}
		words := f.after(s)
		next := words
		if len(words) == 0 {
			words = f.below(s)
			next = words
		}
		for lines := 1; len(next) > 0 && lines < 6 && !postal.MatchString(line(next).String()); lines++ {
			// What goes on may begin under the label as well as under what follows it.
			from := f.lines[s.line][s.from]
			from.box.Min.Y, from.box.Max.Y = next[0].box.Min.Y, next[0].box.Max.Y
			next = f.under([]word{from}, 1<<30)
			if len(next) > 0 && next[0].box.Min.Y > from.box.Max.Y+from.box.Dy()*3/2 {
				break
			}
			words = append(slices.Clone(words), next...)
		}
		if got, ok := text(words); ok {
			f.note(name, got)
			return
		}
	}
}

// enoughWords is more than any document with fields has; a file may have a million, each of them a label.
const enoughWords = 2000

// fields are what a document of a type says, as it is told.
func (d *document) fields(documentType string) map[string]Field {
	fields := map[string]Field{}
	read := readers[documentType]
	if read == nil {
		return fields
	}
	d.shorten(enoughWords)
	read(d)
	for name, got := range d.found {
		least := float64(sureText)
		if got.number {
			least = sureNumber
		}
		confidence := cmp.Or(got.proven, certainty(got.words))
		fields[name] = Field{got.value, confidence, got.doubtful || confidence < least}
	}
	return fields
}
