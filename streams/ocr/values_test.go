package ocr

import (
	"image"
	"slices"
	"strings"
	"testing"
	"time"
)

// printedLines are lines of words as if they had been read for certain. Two spaces and more are kept as places: a letter is ten wide.
func printedLines(text ...string) []line {
	var lines []line
	for i, row := range text {
		var words line
		for from := 0; from < len(row); {
			if row[from] == ' ' {
				from++
				continue
			}
			end := len(row)
			if space := strings.IndexByte(row[from:], ' '); space >= 0 {
				end = from + space
			}
			words = append(words, word{row[from:end], 95, image.Rect(from*10, i*30, end*10, i*30+20)})
			from = end
		}
		if len(words) > 0 {
			lines = append(lines, words)
		}
	}
	return lines
}

// fieldsOf reads lines as a document of a kind.
func fieldsOf(kind string, text ...string) map[string]Field {
	d := &document{}
	d.add(printedLines(text...))
	return d.fields(kind)
}

// expectField wants a value, and whether somebody has to look at it.
func expectField(t *testing.T, fields map[string]Field, name, value string, doubtful bool) {
	t.Helper()
	if got := fields[name]; got.Value != value || got.NeedsVerification != doubtful && value != "" {
		t.Errorf("%s is %+v, want %q, to be verified: %v", name, got, value, doubtful)
	}
}

// TestDates reads the ways of writing them, and says of impossible ones that they are.
func TestDates(t *testing.T) {
	next := time.Now().AddDate(1, 0, 0)
	for _, c := range []struct {
		text, want string
		doubtful   bool
	}{
		{"17/05/2001", "2001-05-17", false},
		{"17-05-2001", "2001-05-17", false},
		{"7.5.2001", "2001-05-07", false},
		{"2001-05-17", "2001-05-17", false},
		{"17 MAY 2001", "2001-05-17", false},
		{"17MAY2001", "2001-05-17", false},
		{"17 / 05 / 2001", "2001-05-17", false},
		{"17-Sept-1999", "1999-09-17", false},
		{"May 17, 2001", "2001-05-17", false},
		{"on 29 FEB 2000 at", "2000-02-29", false},
		{"17/05/74", "1974-05-17", false},
		{"31/02/2001", "31/02/2001", true},
		{"29/02/2001", "29/02/2001", true},
		{"05/17/2001", "05/17/2001", true},
		{"00/05/2001", "00/05/2001", true},
		{"01/01/1850", "1850-01-01", true},
		{next.Format("02/01/2006"), next.Format(time.DateOnly), true},
		{"no date", "", false},
		{"123456", "", false},
	} {
		expectField(t, fieldsOf("aadhaar", "DOB: "+c.text), "dateOfBirth", c.want, c.doubtful)
	}
	fields := fieldsOf("passport", "Date of issue 16 APR 2017", "Date of expiry 15 APR 2012")
	expectField(t, fields, "issueDate", "2017-04-16", true)
	expectField(t, fields, "expiryDate", "2012-04-15", true)
}

// TestVerhoeff finds every wrong digit, and every two neighbours in the wrong order.
func TestVerhoeff(t *testing.T) {
	const right = "234567890124"
	if !verhoeff(right) || !verhoeff("2363") {
		t.Fatal("it refuses what is right")
	}
	for i := range len(right) {
		for digit := byte('0'); digit <= '9'; digit++ {
			wrong := []byte(right)
			if wrong[i] = digit; string(wrong) != right && verhoeff(string(wrong)) {
				t.Errorf("it takes %s", wrong)
			}
		}
		if i > 0 && right[i] != right[i-1] {
			swapped := []byte(right)
			swapped[i], swapped[i-1] = swapped[i-1], swapped[i]
			if verhoeff(string(swapped)) {
				t.Errorf("it takes %s", swapped)
			}
		}
	}
}

// TestNumbers reads numbers as they may have been misread, and believes what a check proves.
func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		kind, text, field, want string
		doubtful                bool
	}{
		{"aadhaar", "2345 6789 0124", "aadharNumber", "234567890124", false},
		{"aadhaar", "234567890124", "aadharNumber", "234567890124", false},
		{"aadhaar", "Z345 6789 O124", "aadharNumber", "234567890124", false},
		{"aadhaar", "2345 6789 0125", "aadharNumber", "234567890125", true},
		{"aadhaar", "1234 5678 9012", "aadharNumber", "", false},
		{"aadhaar", "VID : 2345 6789 0124 1234", "aadharNumber", "", false},
		{"aadhaar", "XXXX XXXX 0124", "aadharNumber", "", false},
		{"pan_card", "ABCPS1234Z", "panNumber", "ABCPS1234Z", false},
		{"pan_card", "ABCPS I234Z", "panNumber", "ABCPS1234Z", true},
		{"pan_card", "ABC123", "panNumber", "", false},
		{"election_card", "ABC1234567", "epicNumber", "ABC1234567", false},
		{"election_card", "A8C1234567", "epicNumber", "ABC1234567", true},
		{"driving_license", "DL No. KL-07 20110012345", "licenseNumber", "KL0720110012345", false},
		{"driving_license", "DL No. KL07 30110012345", "licenseNumber", "KL0730110012345", true},
		{"driving_license", "Licence No: 12/3456/1999", "licenseNumber", "12/3456/1999", true},
		{"passport", "Passport No. M1234567", "passportNumber", "M1234567", false},
		{"passport", "Passport No. M 1234567", "passportNumber", "M1234567", false},
		{"passport", "Passport No. M12345678901", "passportNumber", "", false},
	} {
		expectField(t, fieldsOf(c.kind, c.text), c.field, c.want, c.doubtful)
	}
}

// TestUnsure asks for verification below 70, and below 85 of numbers.
func TestUnsure(t *testing.T) {
	for _, c := range []struct {
		confidence   float64
		name, number bool
	}{{69, true, true}, {71, false, true}, {84, false, true}, {86, false, false}} {
		lines := printedLines("Name  ANNA SPECIMEN", "ABCPS1234Z")
		for _, one := range lines {
			for i := range one {
				one[i].confidence = c.confidence
			}
		}
		d := &document{}
		d.add(lines)
		fields := d.fields("pan_card")
		expectField(t, fields, "fullName", "ANNA SPECIMEN", c.name)
		expectField(t, fields, "panNumber", "ABCPS1234Z", c.number)
	}
}

// TestPlaces finds values beside their labels, below them in columns, and in lines that were torn apart.
func TestPlaces(t *testing.T) {
	fields := fieldsOf("passport",
		"Type   Country code    Passport No.",
		"P      UTO             L898902C3",
		"Surname             Given names",
		"ERIKSSON            ANNA MARIA",
		"wefafa/Sex  Place ofbirth   Natiomality",
		"F           ZENITH CITY     UTOPIAN",
		"Address", "12 Example Street", "Sampletown")
	for name, want := range map[string]string{
		"country": "UTO", "passportNumber": "L898902C3", "fullName": "ANNA MARIA ERIKSSON", "sex": "F", "placeOfBirth": "ZENITH CITY",
		"nationality": "UTOPIAN", "address": "12 Example Street Sampletown",
	} {
		expectField(t, fields, name, want, false)
	}
	torn := printedLines("Place of birth      ZENITH", "Nationality         UTOPIAN", "Sex                 F")
	d := &document{}
	d.add([]line{torn[0][:3], torn[1][:1], torn[2][:1], torn[0][3:], torn[1][1:], torn[2][1:]})
	fields = d.fields("passport")
	for name, want := range map[string]string{"placeOfBirth": "ZENITH", "nationality": "UTOPIAN", "sex": "F"} {
		expectField(t, fields, name, want, false)
	}
}

// TestOldCards reads cards without labels.
func TestOldCards(t *testing.T) {
	fields := fieldsOf("pan_card", "INCOME TAX DEPARTMENT", "GOVT. OF INDIA", "ANNA SPECIMEN", "PAUL SPECIMEN", "17/05/2001", "ABCPS1234Z")
	for name, want := range map[string]string{"fullName": "ANNA SPECIMEN", "fatherName": "PAUL SPECIMEN", "dateOfBirth": "2001-05-17", "panNumber": "ABCPS1234Z"} {
		expectField(t, fields, name, want, false)
	}
}

// TestUpright turns the places of words to where they would be on a page that lies as it should.
func TestUpright(t *testing.T) {
	for name, turn := range map[string]func(image.Point) image.Point{
		"as it should": func(p image.Point) image.Point { return p },
		"on its head":  func(p image.Point) image.Point { return image.Pt(1000-p.X, 1000-p.Y) },
		"to the right": func(p image.Point) image.Point { return image.Pt(1000-p.Y, p.X) },
		"to the left":  func(p image.Point) image.Point { return image.Pt(p.Y, 1000-p.X) },
	} {
		lines := printedLines("Surname      Given names", "ERIKSSON     ANNA MARIA")
		for _, one := range lines {
			for i, w := range one {
				one[i].box = image.Rectangle{Min: turn(w.box.Min), Max: turn(w.box.Max)}.Canon()
			}
		}
		d := &document{}
		d.add(upright(lines))
		if got := d.fields("passport")["fullName"].Value; got != "ANNA MARIA ERIKSSON" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestLongText ends although every word of the text is a label: what is looked for in it has a bound.
func TestLongText(t *testing.T) {
	d := &document{}
	d.add(printedLines(slices.Repeat([]string{strings.Repeat("Sex ", 10)}, 20_000)...))
	began := time.Now()
	if got := d.fields("passport"); len(got) > 0 {
		t.Error(got)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}
