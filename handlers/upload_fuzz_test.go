package handlers

import (
	"crypto"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sluice/store"
)

// FuzzContentRange reads anything, and never a range that is none.
func FuzzContentRange(f *testing.F) {
	for _, text := range []string{
		"bytes 0-9/10", "bytes 0-9/*", "bytes 5-*/10", "bytes 5-*/*", "bytes */10", "bytes */*", "BYTES 0-0/1", "bytes 9-0/10", "bytes 0-9",
		"bytes=0-9", "bytes -1-9/10", "bytes +1-9/10", "bytes 0-99999999999999999999/*", "", "bytes ", "bytes 0-/5", "bytes 0x1-2/3",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseContentRange(text)
		if err != nil {
			return
		}
		if r.first < -1 || r.last < -1 || r.total < -1 || r.first > largestInteger || r.last > largestInteger || r.total > largestInteger ||
			r.last >= 0 && r.last < r.first || r.first < 0 && r.last >= 0 {
			t.Errorf("%q is %+v", text, r)
		}
	})
}

// FuzzUploadMetadata reads anything, and keys that are sent back in a header are such that they can be.
func FuzzUploadMetadata(f *testing.F) {
	for _, text := range []string{"filename YS5wZGY=", "a,b ,c Yw==", "a a a", " , ", "a Yw==,a Yw==", "ü YQ==", "a\n YQ==", "a YQ=\n=", "\n", "a ***", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var draft store.NewUpload
		if err := metadataInto(&draft, http.Header{"Upload-Metadata": {text}}); err != nil {
			return
		}
		if strings.ContainsFunc(draft.Metadata, func(c rune) bool { return c > '~' || c < ' ' && c != '\t' }) || strings.Contains(draft.Filename, "\x00") ||
			len(draft.Filename) > filenameLimit || draft.Declared != nil && len(draft.Declared) != 32 || !label(draft.PropertyID) || !label(draft.GuestID) {
			t.Errorf("%q is %+v", text, draft)
		}
	})
}

// FuzzUploadConcat reads anything, and joins nothing but ids.
func FuzzUploadConcat(f *testing.F) {
	id := strings.Repeat("a", 26)
	for _, text := range []string{"partial", "final;/v2/uploads/" + id, "final;http://h/v2/uploads/" + id + "?orgId=1 /v2/uploads/" + id, "final;", "final; ", "final;%zz", "partial;"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		kind, parts, err := parseConcat([]string{text})
		if err != nil {
			return
		}
		if bad := slices.ContainsFunc(parts, func(id string) bool { return !uploadIDs.MatchString(id) }); bad || (kind == store.UploadJoined) != (len(parts) > 0) {
			t.Errorf("%q is %q of %q", text, kind, parts)
		}
	})
}

// FuzzDigests reads anything as the fields of digests and of structured values, and gives digests of their proper length.
func FuzzDigests(f *testing.F) {
	for _, text := range []string{sum("x"), "sha-512=:" + b64(make([]byte, 64)) + ":", "md5=:AAAA:, " + sum("x"), "sha-256", "sha-256=(1 2)", "sha-256=:AA==:", "sha1 " + b64(make([]byte, 20)), "?1", "12", "1.5", "-0", "012;a=b", ",", "sha-256=:*:"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		header := http.Header{"Content-Digest": {text}, "Repr-Digest": {text}, "Upload-Offset": {text}, "Upload-Complete": {text}}
		if expected, err := contentDigest(header); err == nil && len(expected.Sum) != expected.Algorithm.Size() {
			t.Errorf("%q is %+v", text, expected)
		}
		if whole, err := wholeDigest(header); err == nil && len(whole) != crypto.SHA256.Size() {
			t.Errorf("%q is %x", text, whole)
		}
		if expected, err := tusChecksum(text); err == nil && len(expected.Sum) != expected.Algorithm.Size() {
			t.Errorf("%q is %+v", text, expected)
		}
		r := &http.Request{Header: header}
		if number, err := headerInteger(r, "Upload-Offset"); err == nil && (number < 0 || number > largestInteger) {
			t.Errorf("%q is %d", text, number)
		}
		if value, given, err := headerBoolean(r, "Upload-Complete"); err == nil && (!given || value != strings.HasPrefix(strings.TrimLeft(text, " "), "?1")) {
			t.Errorf("%q is %v", text, value)
		}
	})
}

// TestDigestFields reads fields of several digests, and of those that are not taken.
func TestDigestFields(t *testing.T) {
	t.Parallel()
	long := "sha-512=:" + b64(make([]byte, 64)) + ":"
	for text, want := range map[string]any{
		sum("x"):                      crypto.SHA256,
		long:                          crypto.SHA512,
		long + ", " + sum("x"):        crypto.SHA256,
		"md5=:AAAA:, " + long:         crypto.SHA512,
		"md5=:AAAA:":                  "digest-unsupported-algorithms",
		"unknown=?1":                  "digest-unsupported-algorithms",
		"":                            "digest-invalid-values",
		"sha-256=:AAAA:":              "digest-invalid-values",
		"sha-256=AAAA":                "digest-invalid-values",
		"sha-256=:***:":               "digest-invalid-values",
		"sha-256=:AAAA:, " + long:     "digest-invalid-values",
		strings.ToUpper(sum("x"))[:3]: "digest-invalid-values",
	} {
		expected, err := contentDigest(http.Header{"Content-Digest": {text}})
		if algorithm, good := want.(crypto.Hash); good {
			if err != nil || expected.Algorithm != algorithm {
				t.Errorf("%q is %v %v", text, expected, err)
			}
			continue
		}
		if err == nil || !strings.HasSuffix(problemOf(err).Type, "#"+want.(string)) || problemOf(err).Field != "Content-Digest" {
			t.Errorf("%q is refused as %v", text, err)
		}
	}
	if _, err := wholeDigest(http.Header{"Repr-Digest": {long}}); err == nil || !strings.HasSuffix(problemOf(err).Type, "#digest-unsupported-algorithms") {
		t.Errorf("the whole by another algorithm is refused as %v", err)
	}
}
