package ocr

var electionForm = []entry{
	{"epicNumber", "epic no|epic number|id card no|identity card no", shaped("AAA9999999")},
	{"fullName", "electors name|elector name|name", name},
	{"relationName", "fathers name|father name|husbands name|mothers name|relation name|relations name|guardians name", name},
	{"dateOfBirth", "date of birth|dob|date of birth age", birth},
	{"age", "age|age as on", age},
	{"gender", "sex|gender", gender},
	{"address", "address", nil},
	{"constituencyNumber", constituency, pattern(`\b\d{1,3}\b`)},
	{"partNumber", part, pattern(`\b\d{1,4}\b`)},
	{"", "electoral registration officer|date", nil},
}

const (
	constituency = "assembly constituency no and name|assembly constituency number and name|assembly constituency no|assembly constituency|constituency no|constituency number"
	part         = "part no and name|part number and name|part no|part number"
)

// age is the number after the day on which it was reached, where that is printed: "Age as on 1.1.2007: 25".
func age(words []word) (reading, bool) {
	return pattern(`(?:^|[^\d./-])(\d{2,3})$`)(words)
}

// electionNames are labels of names that may stand behind a number with the same label.
var electionNames = []entry{
	{"constituencyName", constituency + "|constituency name|assembly constituency name", numbered},
	{"partName", part + "|part name", numbered},
	{"", "address|sex|gender|age|date of birth|electoral registration officer|date", nil},
}

// numbered is a name without the number before it: "123 - Sampletown".
func numbered(words []word) (reading, bool) {
	for len(words) > 0 && plain(words[0].text) == digits(words[0].text) {
		words = words[1:]
	}
	return text(words)
}

// readElection finds what stands on an elector's photo identity card. Its number stands there without a label, too.
func readElection(d *document) {
	f := d.fill(electionForm)
	f.block("address")
	for _, one := range d.lines {
		if got, ok := shaped("AAA9999999")(one); ok {
			d.note("epicNumber", got)
		}
	}
	d.fill(electionNames)
}
