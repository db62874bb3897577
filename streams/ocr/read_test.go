package ocr

import (
	"bytes"
	"cmp"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"os"
	"strings"
	"testing"
)

// specimen is a document of nobody, and what is to be found in it.
type specimen struct {
	kind  string
	lines []string
	want  map[string]string
}

var specimens = []specimen{
	{
		"aadhaar",
		[]string{
			"GOVERNMENT OF INDIA", "SPECIMEN ANNA", "Father: SPECIMEN PAUL", "DOB: 17/05/2001", "FEMALE",
			"Address: 12 Example Street, Sampletown,", "Kerala 682001", "2345 6789 0124", "VID : 9123 4567 8901 2345",
		},
		map[string]string{
			"fullName": "SPECIMEN ANNA", "fatherName": "SPECIMEN PAUL", "dateOfBirth": "2001-05-17", "gender": "Female",
			"address": "12 Example Street, Sampletown, Kerala 682001", "aadharNumber": "234567890124",
		},
	},
	{
		"pan_card",
		[]string{
			"INCOME TAX DEPARTMENT      GOVT. OF INDIA", "Permanent Account Number Card", "ABCPS1234Z", "Name", "ANNA SPECIMEN",
			"Father's Name", "PAUL SPECIMEN", "Date of Birth", "17/05/2001",
		},
		map[string]string{"fullName": "ANNA SPECIMEN", "fatherName": "PAUL SPECIMEN", "panNumber": "ABCPS1234Z", "dateOfBirth": "2001-05-17"},
	},
	{
		"passport",
		[]string{
			"PASSPORT      UTOPIA", "Type  P      Country code  UTO      Passport No.  L898902C3", "Surname", "ERIKSSON", "Given names",
			"ANNA MARIA", "Nationality  UTOPIAN", "Date of birth  12 AUG 1974      Sex  F", "Place of birth  ZENITH",
			"Date of issue  16 APR 2007", "Date of expiry  15 APR 2012", "Authority  UTOPIAN PASSPORT OFFICE", "",
			"\tP<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<", "\tL898902C36UTO7408122F1204159ZE184226B<<<<<10",
		},
		map[string]string{
			"fullName": "ANNA MARIA ERIKSSON", "passportNumber": "L898902C3", "country": "UTO", "nationality": "UTOPIAN", "sex": "F",
			"dateOfBirth": "1974-08-12", "placeOfBirth": "ZENITH", "issueDate": "2007-04-16", "expiryDate": "2012-04-15",
			"issuingAuthority": "UTOPIAN PASSPORT OFFICE", "mrz": "*",
		},
	},
	{
		"driving_license",
		[]string{
			"UNION OF INDIA   DRIVING LICENCE", "DL No.  KL07 20110012345", "Name  ANNA SPECIMEN", "S/D/W of  PAUL SPECIMEN",
			"DOB  17-05-1990      Blood Group  B+", "COV  LMV MCWG", "Date of Issue  02-03-2011", "Valid From  02-03-2011 To 01-03-2031",
			"Badge No.  B12345      Badge Date  05-06-2012", "Address  12 Example Street,", "Sampletown, Kerala 682001",
			"Issuing Authority  RTO SAMPLETOWN",
		},
		map[string]string{
			"licenseNumber": "KL0720110012345", "fullName": "ANNA SPECIMEN", "fatherHusbandName": "PAUL SPECIMEN", "dateOfBirth": "1990-05-17",
			"bloodGroup": "B+", "vehicleClasses": "LMV MCWG", "issueDate": "2011-03-02", "validityFrom": "2011-03-02", "validityTo": "2031-03-01",
			"badgeNumber": "B12345", "badgeDate": "2012-06-05", "address": "12 Example Street, Sampletown, Kerala 682001",
			"issuingAuthority": "RTO SAMPLETOWN",
		},
	},
	{
		"election_card",
		[]string{
			"ELECTION COMMISSION OF INDIA", "ELECTOR PHOTO IDENTITY CARD", "ABC1234567", "Elector's Name : ANNA SPECIMEN",
			"Father's Name : PAUL SPECIMEN", "Sex : Female", "Age as on 1.1.2020 : 29", "Date of Birth : 17/05/1990",
			"Address : 12 Example Street,", "Sampletown, Kerala 682001",
			"Assembly Constituency No. and Name : 123 - Sampletown", "Part No. and Name : 45 - Example School",
		},
		map[string]string{
			"epicNumber": "ABC1234567", "fullName": "ANNA SPECIMEN", "relationName": "PAUL SPECIMEN", "gender": "Female", "age": "29",
			"dateOfBirth": "1990-05-17", "address": "12 Example Street, Sampletown, Kerala 682001", "constituencyNumber": "123",
			"constituencyName": "Sampletown", "partNumber": "45", "partName": "Example School",
		},
	},
	{
		"visa",
		[]string{
			"VISA      REPUBLIC OF UTOPIA", "Country  UTOPIA", "Visa No.  V12345678", "Visa Type  TOURIST      Category  B2",
			"Surname  ERIKSSON", "Given names  ANNA MARIA", "Nationality  UTOPIAN", "Passport No.  L898902C3",
			"Place of issue  ZENITH", "Date of issue  16 APR 2007", "Date of expiry  15 APR 2012", "Number of entries  MULTIPLE",
			"Duration of stay  90 DAYS", "Purpose of visit  TOURISM", "Port of entry  SAMPLETOWN", "",
			"\tV<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<", "\tL898902C36UTO7408122F1204159<<<<<<<<<<<<<<<<",
		},
		map[string]string{
			"country": "UTOPIA", "visaNumber": "V12345678", "visaType": "TOURIST", "visaCategory": "B2", "fullName": "ANNA MARIA ERIKSSON",
			"nationality": "UTOPIAN", "passportNumber": "L898902C3", "placeOfIssue": "ZENITH", "issueDate": "2007-04-16",
			"expiryDate": "2012-04-15", "numberOfEntries": "MULTIPLE", "durationOfStay": "90 DAYS", "purposeOfVisit": "TOURISM",
			"portOfEntry": "SAMPLETOWN", "dateOfBirth": "1974-08-12", "sex": "F", "mrz": "*",
		},
	},
}

// compare wants each field, as it is printed but for the punctuation of addresses, and no others.
func compare(t *testing.T, got Result, want map[string]string) {
	t.Helper()
	for name, value := range want {
		field, found := got.Fields[name]
		right := field.Value == value || value == "*" || name == "address" && plain(field.Value) == plain(value)
		if !found || !right {
			t.Errorf("%s is %+v (%v), want %q", name, field, found, value)
		}
		if field.Confidence < 0 || field.Confidence > 100 || field.Confidence < 70 && !field.NeedsVerification {
			t.Errorf("%s: %+v", name, field)
		}
	}
	for name, field := range got.Fields {
		if _, wanted := want[name]; !wanted {
			t.Errorf("%s is %+v, and is not there", name, field)
		}
	}
	if t.Failed() {
		t.Log(got.Text)
	}
}

// TestRead prints specimens of each type, spoils them, and reads them.
func TestRead(t *testing.T) {
	r := NewReader(Options{})
	for _, one := range specimens {
		picture := page(t, one.lines...)
		for name, spoil := range map[string]func(*image.Gray) *image.Gray{
			"clean":       func(p *image.Gray) *image.Gray { return p },
			"on its side": func(p *image.Gray) *image.Gray { return turned(p, 90) },
			"on its head": func(p *image.Gray) *image.Gray { return turned(p, 180) },
			"aslant":      func(p *image.Gray) *image.Gray { return turned(p, 2) },
			"noisy":       noisy,
		} {
			t.Run(one.kind+" "+name, func(t *testing.T) {
				t.Parallel()
				path := saved(t, "specimen", asPNG(t, spoil(picture)))
				got, err := r.Read(t.Context(), path, "image/png", one.kind)
				if err != nil {
					t.Fatal(err)
				}
				compare(t, got, one.want)
				if got.Pages != 1 || got.Confidence < 50 || got.Confidence > 100 {
					t.Errorf("pages %d, confidence %g", got.Pages, got.Confidence)
				}
			})
		}
	}
}

// TestReadFormats reads the same in each format.
func TestReadFormats(t *testing.T) {
	r, one := NewReader(Options{}), specimens[1]
	picture := page(t, one.lines...)
	var asJPEG, asGIF bytes.Buffer
	if err := jpeg.Encode(&asJPEG, picture, nil); err != nil {
		t.Fatal(err)
	}
	if err := gif.Encode(&asGIF, picture, nil); err != nil {
		t.Fatal(err)
	}
	// Nothing in Go writes WebP: this is the same specimen as Leptonica has written it.
	asWebP, err := os.ReadFile("testdata/pan.webp")
	if err != nil {
		t.Fatal(err)
	}
	for format, content := range map[string][]byte{"image/jpeg": asJPEG.Bytes(), "image/gif": asGIF.Bytes(), "image/webp": asWebP} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			got, err := r.Read(t.Context(), saved(t, "-specimen", content), format, one.kind)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, got, one.want)
		})
	}
}

// TestReadText reads what is of no type: there are words, and no fields.
func TestReadText(t *testing.T) {
	got, err := NewReader(Options{}).Read(t.Context(), saved(t, "x", asPNG(t, page(t, "Passport No. L898902C3"))), "image/png", "other")
	if err != nil || !strings.Contains(got.Text, "L898902C3") || got.Fields == nil || len(got.Fields) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	blank, err := NewReader(Options{}).Read(t.Context(), saved(t, "x", asPNG(t, image.NewGray(image.Rect(0, 0, 200, 100)))), "image/png", "image")
	if err != nil || blank.Text != "" || blank.Confidence != 0 || blank.Pages != 1 {
		t.Errorf("%+v, %v", blank, err)
	}
}

// TestReads knows what there is nothing to read in.
func TestReads(t *testing.T) {
	r := NewReader(Options{})
	for _, one := range []struct {
		mime, kind string
		want       bool
	}{
		{"image/png", "passport", true},
		{"image/webp", "other", true},
		{"application/pdf", "image", true},
		{"image/png", "csv", false},
		{"text/csv", "csv", false},
		{"application/vnd.ms-excel", "other", false},
		{"image/tiff", "visa", false},
		{"image/png", "", false},
	} {
		if got := r.Reads(one.mime, one.kind); got != one.want {
			t.Errorf("%s as %s: %v", one.mime, one.kind, got)
		}
	}
}

// printed is a PDF of objects, of which the first is the catalogue. Poppler finds them by itself where the table of places is
// missing, but says so; so there is one.
func printed(objects ...string) []byte {
	var out bytes.Buffer
	out.WriteString("%PDF-1.4\n")
	var places []int
	for i, object := range objects {
		places = append(places, out.Len())
		fmt.Fprintf(&out, "%d 0 obj\n%s\nendobj\n", i+1, object)
	}
	start := out.Len()
	fmt.Fprintf(&out, "xref\n0 %d\n0000000000 65535 f \n", len(objects)+1)
	for _, place := range places {
		fmt.Fprintf(&out, "%010d 00000 n \n", place)
	}
	fmt.Fprintf(&out, "trailer\n<</Root 1 0 R/Size %d>>\nstartxref\n%d\n%%%%EOF\n", len(objects)+1, start)
	return out.Bytes()
}

func stream(dictionary, content string) string {
	return fmt.Sprintf("<<%s/Length %d>>\nstream\n%s\nendstream", dictionary, len(content), content)
}

// textPDF has a page for each list of lines, as text.
func textPDF(pages ...[]string) []byte {
	objects := []string{"<</Type/Catalog/Pages 2 0 R>>", "", "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"}
	kids := ""
	for _, lines := range pages {
		content := "BT /F1 12 Tf 20 TL 20 770 Td\n"
		for _, line := range lines {
			content += "(" + strings.NewReplacer("(", `\(`, ")", `\)`).Replace(line) + ") Tj T*\n"
		}
		objects = append(objects, stream("", content+"ET"))
		kids += fmt.Sprintf("%d 0 R ", len(objects)+1)
		objects = append(objects, fmt.Sprintf("<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents %d 0 R/Resources<</Font<</F1 3 0 R>>>>>>", len(objects)))
	}
	objects[1] = fmt.Sprintf("<</Type/Pages/Kids[%s]/Count %d>>", kids, len(pages))
	return printed(objects...)
}

// imagePDF has a page for each picture, at 200 dots per inch, cut out of paper of a size where one is given.
func imagePDF(t *testing.T, paper string, pictures ...*image.Gray) []byte {
	t.Helper()
	objects := []string{"<</Type/Catalog/Pages 2 0 R>>", ""}
	kids := ""
	for _, picture := range pictures {
		var content bytes.Buffer
		if err := jpeg.Encode(&content, picture, nil); err != nil {
			t.Fatal(err)
		}
		width, height := picture.Rect.Dx(), picture.Rect.Dy()
		objects = append(objects, stream(fmt.Sprintf(
			"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 8/Filter/DCTDecode", width, height), content.String()))
		objects = append(objects, stream("", fmt.Sprintf("%d 0 0 %d 0 0 cm /I Do", width*72/200, height*72/200)))
		kids += fmt.Sprintf("%d 0 R ", len(objects)+1)
		size := fmt.Sprintf("0 0 %d %d", width*72/200, height*72/200)
		objects = append(objects, fmt.Sprintf("<</Type/Page/Parent 2 0 R/MediaBox[%s]/CropBox[%s]/Contents %d 0 R/Resources<</XObject<</I %d 0 R>>>>>>",
			cmp.Or(paper, size), size, len(objects), len(objects)-1))
	}
	objects[1] = fmt.Sprintf("<</Type/Pages/Kids[%s]/Count %d>>", kids, len(pictures))
	return printed(objects...)
}

// TestReadPDF reads text where there is some, pictures where there is none, and what is found on either of two pages.
func TestReadPDF(t *testing.T) {
	r, one := NewReader(Options{}), specimens[4]
	front, back := one.lines[:8], one.lines[8:]
	text := textPDF(front, back)
	for name, content := range map[string][]byte{
		"text":     text,
		"pictures": imagePDF(t, "", page(t, front...), turned(page(t, back...), 180)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := r.Read(t.Context(), saved(t, "specimen", content), "application/pdf", one.kind)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, got, one.want)
			if got.Pages != 2 {
				t.Errorf("%d pages", got.Pages)
			}
			if (name == "text") != (got.Confidence == 100) {
				t.Errorf("confidence %g", got.Confidence)
			}
			if before, after, _ := strings.Cut(got.Text, "\n\n"); !strings.Contains(before, "29") || !strings.Contains(after, "Example School") {
				t.Errorf("text: %q", got.Text)
			}
		})
	}
}
