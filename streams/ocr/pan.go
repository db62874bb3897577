package ocr

var panForm = []entry{
	{"panNumber", "permanent account number|permanent account number card|pan", shaped("AAAAA9999A")},
	{"fullName", "name", name},
	{"fatherName", "fathers name|father name", name},
	{"motherName", "mothers name|mother name", name},
	{"dateOfBirth", "date of birth|dob|date of birth date of incorporation", birth},
	{"", "signature", nil},
}

// readPAN finds what stands on the card. Older ones have no labels but a title: the name, the father's, the birth, one below the
// other. A signature is nothing that is read.
func readPAN(d *document) {
	f := d.fill(panForm)
	for _, one := range d.lines {
		if got, ok := shaped("AAAAA9999A")(one); ok {
			d.note("panNumber", got)
		}
		if got, ok := birth(one); ok {
			d.note("dateOfBirth", got)
		}
	}
	if _, labelled := d.found["fullName"]; labelled {
		return
	}
	fields := []string{"fullName", "fatherName"}
	for i := range d.lines {
		if got, ok := f.bareName(i); ok && len(fields) > 0 {
			d.note(fields[0], got)
			fields = fields[1:]
		}
	}
}
