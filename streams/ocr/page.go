package ocr

import (
	"image"
	"regexp"
	"strings"
)

// word is a word as it was read, and where it stands on its page.
type word struct {
	text       string
	confidence float64
	box        image.Rectangle
}

// line is words from left to right, one at least.
type line []word

func (l line) String() string {
	texts := make([]string, len(l))
	for i, w := range l {
		texts[i] = w.text
	}
	return strings.Join(texts, " ")
}

// apart is the distance between pages, put one below the other, so that nothing is near what is on another page.
const apart = 1 << 20

// document is all pages, and what was found there.
type document struct {
	lines  []line
	breaks []int // where pages end in lines
	pages  int   // as many were read
	found  map[string]reading
}

// add takes a page.
func (d *document) add(lines []line) {
	for _, one := range lines {
		var split line
		for _, w := range one {
			split = append(split, w.split()...)
		}
		for i := range split {
			split[i].box = split[i].box.Add(image.Pt(0, d.pages*apart))
		}
		d.lines = append(d.lines, split)
	}
	d.pages++
	d.breaks = append(d.breaks, len(d.lines))
}

// glued are places between a label and what stands beside it without a space: "DOB:17/05/2001", "wefafa/DOB", "No.AB12".
var glued = regexp.MustCompile(`^(.*[\pL.)]:|[^\d:]{3,}/|(?i:no)\.+)[-.]*([\pL\d].+)$`)

// split takes apart a label and its value, so that each word is one of them.
func (w word) split() []word {
	parts := glued.FindStringSubmatch(w.text)
	if parts == nil {
		return []word{w}
	}
	first, rest := w, w
	first.text, rest.text = parts[1], parts[2]
	middle := w.box.Min.X + w.box.Dx()*len(parts[1])/len(w.text)
	first.box.Max.X, rest.box.Min.X = middle, middle
	return append([]word{first}, rest.split()...)
}

// text is a line for each line, and an empty one between pages.
func (d *document) text() string {
	var out strings.Builder
	at := 0
	for _, end := range d.breaks {
		if at > 0 {
			out.WriteString("\n")
		}
		for ; at < end; at++ {
			out.WriteString(d.lines[at].String())
			out.WriteString("\n")
		}
	}
	return strings.TrimRight(out.String(), "\n")
}

func (d *document) confidence() float64 {
	sum, letters := weigh(d.lines)
	if letters == 0 {
		return 0
	}
	return sum / letters
}

// shorten forgets the lines after some words.
func (d *document) shorten(words int) {
	for i, one := range d.lines {
		if words -= len(one); words < 0 {
			d.lines = d.lines[:i]
			return
		}
	}
}
