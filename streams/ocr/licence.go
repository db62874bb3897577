package ocr

import "regexp"

var licenceForm = []entry{
	{"licenseNumber", "dl no|licence no|license no|driving licence no|driving license no|licence number|license number|no", licenceNumber},
	{"fullName", "name|full name|name of holder", name},
	{"dateOfBirth", "date of birth|dob|birth date", birth},
	{"fatherHusbandName", "s d w of|son daughter wife of|s d w|fathers name|fathers husbands name|father husband name", name},
	{"bloodGroup", "blood group|bg|blood", pattern(`(?i)\b((?:A|B|AB|O) ?[+-](?: ?ve)?)`)},
	{"vehicleClasses", "cov|class of vehicle|class of vehicles|vehicle class|vehicle classes|classes of vehicle", text},
	{"issueDate", "date of issue|issue date|doi|issued on|date of first issue", date},
	{"validityFrom", "valid from|validity from", date},
	{"validityTo", "valid till|valid to|valid upto|valid until|validity|validity to|validity nt|validity tr|valid till nt", date},
	{"issuingAuthority", "issuing authority|licencing authority|licensing authority|issued by", text},
	{"testingAuthority", "testing authority", text},
	{"badgeNumber", "badge no|badge number", pattern(`[A-Z0-9][A-Z0-9/-]*\d[A-Z0-9/-]*`)},
	{"badgeDate", "badge date|badge issue date|badge issued on", date},
	{"address", "address|add|permanent address|present address", nil},
	{"", "organ donor|signature|holders signature|emergency contact", nil},
}

var (
	// indianLicence is the number as the states give them since 2011: state, office, year, seven digits.
	indianLicence = shaped("AA9999999999999")
	otherLicence  = pattern(`\b[A-Z]{0,3}[A-Z0-9]*[ /-]{0,2}\d[A-Z0-9/-]{3,}(?:[ -]\d{4,})?`)
)

// licenceNumber is what stands beside the label. Other states give other numbers, and older ones have no one form: those are
// doubtful.
func licenceNumber(words []word) (reading, bool) {
	if got, ok := indianLicence(words); ok {
		year := got.value[4:6]
		got.doubtful = got.doubtful || year != "19" && year != "20"
		return got, true
	}
	got, ok := otherLicence(words)
	got.number, got.doubtful = true, true
	return got, ok
}

var validityEnd = regexp.MustCompile(`(?i)\bto\b(.*)$`)

// readLicence finds what stands on a driving licence. Both ends of its validity may stand in one line.
func readLicence(d *document) {
	f := d.fill(licenceForm)
	f.block("address")
	for _, s := range f.spans {
		if f.entries[s.entry].name != "validityFrom" {
			continue
		}
		if _, rest := find(validityEnd, f.after(s)); len(rest) > 1 {
			if got, ok := date(rest[1:]); ok {
				d.note("validityTo", got)
			}
		}
	}
	d.follow("issueDate", "validityTo")
	d.follow("validityFrom", "validityTo")
}
