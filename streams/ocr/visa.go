package ocr

var visaForm = []entry{
	{"visaNumber", "visa no|visa number", travelNumber},
	{"visaType", "visa type|type of visa|type", text},
	{"visaCategory", "visa category|category|visa class|class", text},
	{"country", "country|issuing country|country code", text},
	{"issueDate", "date of issue|issue date|issued on|valid from", date},
	{"expiryDate", "date of expiry|expiry date|expiration date|valid until|valid till", date},
	{"placeOfIssue", "place of issue|issuing post|issued at|issuing post name", text},
	{"purposeOfVisit", "purpose of visit|purpose|purpose of journey", text},
	{"durationOfStay", "duration of stay|duration|stay", text},
	{"numberOfEntries", "no of entries|number of entries|entries", text},
	{"surname", "surname", name},
	{"given", "given name|given names", name},
	{"fullName", "name|full name|applicant name|name of holder", name},
	{"nationality", "nationality", name},
	{"passportNumber", "passport no|passport number", travelNumber},
	{"portOfEntry", "port of entry|port of arrival", text},
	{"dateOfBirth", "date of birth|birth date|dob", birth},
	{"sex", "sex", sex},
	{"", "remarks|annotation|signature|control number", nil},
}

// readVisa finds what is printed, and compares it with the machine-readable zone. The number there is that of the visa with some
// states, of the passport with others: the one that it resembles.
func readVisa(d *document) {
	d.fill(visaForm)
	d.wholeName()
	d.zone(func(z zone) map[string]reading {
		fields := map[string]reading{"sex": z.sex, "dateOfBirth": z.birth, "expiryDate": z.expiry}
		number := "visaNumber"
		if blind(d.found["passportNumber"].value, z.number.value) {
			number = "passportNumber"
		}
		if found := d.found[number].value; found == "" || blind(found, z.number.value) {
			fields[number] = z.number
		}
		return fields
	})
	d.follow("issueDate", "expiryDate")
}
