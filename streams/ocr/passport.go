package ocr

var passportForm = []entry{
	{"passportNumber", "passport no|passport number|passport nr", travelNumber},
	{"surname", "surname", name},
	{"given", "given name|given names|forenames", name},
	{"fullName", "full name|name", name},
	{"nationality", "nationality", name},
	{"sex", "sex", sex},
	{"dateOfBirth", "date of birth|birth date|dob", birth},
	{"placeOfBirth", "place of birth", text},
	{"issueDate", "date of issue|issue date", date},
	{"expiryDate", "date of expiry|expiry date|date of expiration|valid until", date},
	{"country", "country code|code|issuing state|issuing country", pattern(`\b[A-Z]{3}\b`)},
	{"issuingAuthority", "authority|issuing authority|place of issue", text},
	{"address", "address", nil},
	{"", "type|file no|father|name of father|name of mother|name of spouse|name of father legal guardian|signature|signature of bearer|old passport no|personal no", nil},
}

// travelNumber is a passport's: six to nine letters and digits, one of which is a digit.
func travelNumber(words []word) (reading, bool) {
	got, ok := pattern(`\b[A-Z]{0,3}\d[A-Z0-9]{4,8}\b|\b[A-Z]{1,2} \d{6,7}\b`)(words)
	got.value, got.number = joined(got.value), true
	got.doubtful = len(got.value) < 6 || len(got.value) > 9
	return got, ok
}

// readPassport finds what is printed, and compares it with the machine-readable zone.
func readPassport(d *document) {
	d.fill(passportForm).block("address")
	d.wholeName()
	d.zone(func(z zone) map[string]reading {
		return map[string]reading{"passportNumber": z.number, "sex": z.sex, "dateOfBirth": z.birth, "expiryDate": z.expiry, "country": z.country}
	})
	d.follow("issueDate", "expiryDate")
	d.follow("dateOfBirth", "issueDate")
}

// wholeName makes one of two parts.
func (d *document) wholeName() {
	surname, given := d.found["surname"], d.found["given"]
	delete(d.found, "surname")
	delete(d.found, "given")
	if surname.value == "" || given.value == "" {
		return
	}
	d.note("fullName", reading{value: given.value + " " + surname.value, words: append(append([]word(nil), given.words...), surname.words...)})
}
