package ocr

import "strings"

var aadhaarForm = []entry{
	{"dateOfBirth", "dob|date of birth", birth},
	{"", "year of birth|yob|vid|enrolment no|mobile", nil},
	{"fatherName", "father|fathers name|father name|so|do", name},
	{"motherName", "mother|mothers name|mother name", name},
	{"", "husband|co|wo", nil},
	{"gender", "gender|sex", gender},
	{"address", "address", nil},
	{"fullName", "name|full name", name},
}

// readAadhaar finds what stands on both sides of the card. The name has no label there: it is the line above those of the
// parents and the birth.
func readAadhaar(d *document) {
	f := d.fill(aadhaarForm)
	f.block("address")
	for _, one := range d.lines {
		if len(one) <= 4 {
			if got, ok := gender(spelt(one)); ok {
				d.note("gender", got)
			}
		}
	}
	d.aadhaarNumber()
	for _, s := range f.spans {
		if where := f.entries[s.entry].name; where == "dateOfBirth" || where == "fatherName" || where == "motherName" {
			f.nameAbove(s.line)
		}
	}
}

// spelt are the words that are no single letters.
func spelt(words []word) []word {
	var long []word
	for _, w := range words {
		if len(plain(w.text)) > 1 {
			long = append(long, w)
		}
	}
	return long
}

// heading are words of lines that are about the state, not about anybody.
var heading = []string{"government", "govt", "india", "authority", "department", "card", "republic", "commission", "identity"}

// nameAbove takes the nearest line before one of which every word may be of a name.
func (f *form) nameAbove(number int) {
	for i := number - 1; i >= 0 && i >= number-3; i-- {
		got, ok := f.bareName(i)
		if ok {
			f.note("fullName", got)
			return
		}
	}
}

// bareName reads a line that is a name and nothing else, without a label.
func (f *form) bareName(number int) (reading, bool) {
	words := trimmed(f.lines[number])
	if len(words) == 0 || f.end(number, 0) < len(f.lines[number]) {
		return reading{}, false
	}
	for _, w := range words {
		for _, one := range heading {
			if alike(plain(w.text), one) {
				return reading{}, false
			}
		}
	}
	got, ok := name(words)
	return got, ok && len(got.words) == len(words) && len(got.value) > 3
}

// aadhaarNumber finds twelve digits, and neither the sixteen of a virtual id nor parts of them. Its last digit proves a repair.
func (d *document) aadhaarNumber() {
	var doubtful *reading
	for _, one := range d.lines {
		for from := range one {
			got, ok := shaped("999999999999")(one[from:])
			if !ok || got.words[0].box != one[from].box {
				continue
			}
			to := from + len(got.words)
			if from > 0 && quartet(one[from-1]) || to < len(one) && quartet(one[to]) || strings.Contains("01", got.value[:1]) {
				continue
			}
			if got.doubtful = !verhoeff(got.value); !got.doubtful {
				d.note("aadharNumber", got)
				return
			}
			if doubtful == nil {
				doubtful = &got
			}
		}
	}
	if doubtful != nil {
		d.note("aadharNumber", *doubtful)
	}
}

func quartet(w word) bool {
	_, repairs := fit(strings.ToUpper(w.text), "9999999999999999"[:min(16, len(w.text))])
	return len(w.text) == 4 && repairs == 0
}
