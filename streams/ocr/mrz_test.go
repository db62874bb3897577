package ocr

import (
	"strings"
	"testing"
)

// The specimens are those of ICAO 9303.
const (
	td3  = "P<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<\nL898902C36UTO7408122F1204159ZE184226B<<<<<10"
	mrvA = "V<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<\nL8988901C4XXX4009078F96121096ZE184226B<<<<<<"
	mrvB = "V<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<\nL8988901C4XXX4009078F9612109<<<<<<<<"
	td1  = "I<UTOD231458907<<<<<<<<<<<<<<<\n7408122F1204159UTO<<<<<<<<<<<6\nERIKSSON<<ANNA<MARIA<<<<<<<<<<"
)

// TestZones reads each layout, and every check of it holds.
func TestZones(t *testing.T) {
	for _, c := range []struct{ kind, text, number, birth, expiry, nation string }{
		{"passport", td3, "L898902C3", "1974-08-12", "2012-04-15", "UTO"},
		{"passport", td1, "D23145890", "1974-08-12", "2012-04-15", "UTO"},
		{"visa", mrvA, "L8988901C", "1940-09-07", "1996-12-10", "XXX"},
		{"visa", mrvB, "L8988901C", "1940-09-07", "1996-12-10", "XXX"},
	} {
		fields := fieldsOf(c.kind, strings.Split(c.text, "\n")...)
		number := map[string]string{"passport": "passportNumber", "visa": "visaNumber"}[c.kind]
		expiry := c.expiry
		if c.kind == "visa" {
			expiry = "2096-12-10" // two digits of a year: a visa that expires is of this century
		}
		for name, want := range map[string]string{
			number: c.number, "dateOfBirth": c.birth, "expiryDate": expiry, "nationality": c.nation, "sex": "F", "fullName": "ANNA MARIA ERIKSSON", "mrz": c.text,
		} {
			expectField(t, fields, name, want, false)
		}
	}
}

// TestZoneMisread repairs what a check digit proves, and nothing else.
func TestZoneMisread(t *testing.T) {
	for name, c := range map[string]struct {
		from, to, number string
		doubtful         bool
	}{
		"letters in a date":        {"7408122F", "74O8IZ2F", "L898902C3", false},
		"a letter in the number":   {"L898902C3", "L8989O2C3", "L898902C3", false},
		"one that might be two":    {"L898902C3", "L89B902C3", "L89B902C3", true},
		"one of two before it":     {"L898902C36", "1L898902C36", "L898902C3", true},
		"a digit that is no other": {"L898902C3", "L898903C3", "L898903C3", true},
		"a letter before it":       {"L898902C36", "IL898902C36", "L898902C3", true},
		"fillers lost":             {"B<<<<<10", "B<<<10", "L898902C3", false},
		"fillers as letters":       {"MARIA<<<<<<<<<", "MARIA<<<ccc<ee", "L898902C3", false},
		"fillers as quotes":        {"ERIKSSON<<ANNA", "ERIKSSON«ANNA", "L898902C3", false},
		"spaces":                   {"UTO7408122", "UTO 7408122 ", "L898902C3", false},
	} {
		fields := fieldsOf("passport", strings.Split(strings.Replace(td3, c.from, c.to, 1), "\n")...)
		if got := fields["passportNumber"]; got.Value != c.number || got.NeedsVerification != c.doubtful {
			t.Errorf("%s: %+v", name, got)
		}
		expectField(t, fields, "dateOfBirth", "1974-08-12", false)
		expectField(t, fields, "fullName", "ANNA MARIA ERIKSSON", false)
		expectField(t, fields, "mrz", fields["mrz"].Value, c.doubtful)
	}
}

// TestZoneAgrees compares the zone with what is printed: equal readings are sure, others are for somebody to look at. No check digit
// tells an L from a 1.
func TestZoneAgrees(t *testing.T) {
	for name, c := range map[string]struct {
		printed, zone, want string
		doubtful            bool
	}{
		"equal":       {"L898902C3", td3, "L898902C3", false},
		"another":     {"M898902C4", td3, "L898902C3", true},
		"as good":     {"L898902C3", strings.Replace(td3, "L89", "189", 1), "L898902C3", true},
		"zone broken": {"L898902C3", strings.Replace(td3, "02C36", "03C36", 1), "L898902C3", true},
	} {
		fields := fieldsOf("passport", append([]string{"Passport No. " + c.printed}, strings.Split(c.zone, "\n")...)...)
		if got := fields["passportNumber"]; got.Value != c.want || got.NeedsVerification != c.doubtful {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestNoZone takes no table of contents for one.
func TestNoZone(t *testing.T) {
	fields := fieldsOf("passport", "P<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<", "Surname<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<12", "Surname  ERIKSSON")
	if len(fields) != 0 {
		t.Errorf("%+v", fields)
	}
}
