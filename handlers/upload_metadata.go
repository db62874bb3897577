package handlers

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"sluice/store"
)

const (
	filenameLimit  = 255
	mediaTypeLimit = 255
	metadataLimit  = 8 << 10 // of Upload-Metadata, which is kept as it came
	unnamed        = "upload"
)

// documentTypes are what a document can be said to be.
var documentTypes = []string{"aadhaar", "passport", "driving_license", "pan_card", "election_card", "visa", "other", "image", "csv"}

// uploadDraft reads the JSON that makes an upload. It is checked as events are: what is unknown or wrong is named.
func uploadDraft(body []byte) (store.NewUpload, error) {
	draft := store.NewUpload{Size: -1}
	fields, err := members(body)
	if err != nil {
		return draft, err
	}
	for _, field := range fields {
		if err := jsonField(&draft, field.name, field.value); err != nil {
			return draft, invalid(field.name, "%v", err)
		}
	}
	switch {
	case draft.Filename == "":
		return draft, invalid("filename", "the field is required")
	case draft.Claimed == "":
		return draft, invalid("mimeType", "the field is required")
	}
	return draft, nil
}

// jsonField reads one field of the JSON. An optional field that is null is the same as an absent one.
func jsonField(draft *store.NewUpload, name string, value json.RawMessage) error {
	null := string(value) == "null"
	switch name {
	case "propertyId", "guestId":
		id, err := optional(value)
		if err != nil {
			return err
		}
		return draftField(draft, name, id)
	case "size":
		if null {
			return nil
		}
		var size int64
		if !decimal.Match(value) || json.Unmarshal(value, &size) != nil || size < 0 || size > largestInteger {
			return errors.New("a number of bytes is expected")
		}
		draft.Size = size
		return nil
	case "filetype": // the metadata's name for it
		return errNoField
	}
	var text *string
	if err := json.Unmarshal(value, &text); err != nil {
		text = nil
	}
	if text == nil && !null {
		if draftField(new(store.NewUpload), name, "") == errNoField {
			return errNoField
		}
		return errors.New("a string is expected")
	}
	if text == nil {
		return draftField(draft, name, "")
	}
	if *text == "" && (name == "filename" || name == "mimeType") {
		return errors.New("it is empty")
	}
	return draftField(draft, name, *text)
}

var errNoField = errors.New("there is no such field")

// draftField sets what both the JSON and the metadata can say of an upload. An empty text is the same as none.
func draftField(draft *store.NewUpload, name, value string) error {
	switch name {
	case "filename":
		if len(value) > filenameLimit || !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
			return fmt.Errorf("1 to %d bytes of UTF-8 without NUL are expected", filenameLimit)
		}
		draft.Filename = value
	case "mimeType", "filetype":
		kind, _, err := mime.ParseMediaType(value)
		if value != "" && (err != nil || !strings.Contains(kind, "/") || len(value) > mediaTypeLimit) {
			return errors.New("a media type such as image/png is expected")
		}
		draft.Claimed = kind
	case "sha256":
		sum, err := hex.DecodeString(value)
		if value != "" && (err != nil || len(sum) != 32) {
			return errors.New("64 hexadecimal digits are expected")
		}
		if value != "" {
			draft.Declared = sum
		}
	case "documentType":
		if value != "" && !slices.Contains(documentTypes, value) {
			return fmt.Errorf("one of %s is expected", strings.Join(documentTypes, ", "))
		}
		draft.DocumentType = value
	case "propertyId", "guestId":
		if !label(value) {
			return fmt.Errorf("at most %d bytes without control characters are expected", labelLimit)
		}
		if name == "guestId" {
			draft.GuestID = value
		} else {
			draft.PropertyID = value
		}
	default:
		return errNoField
	}
	return nil
}

// metadataInto reads Upload-Metadata into a draft. Keys that are not known are kept with the rest of the header, and told again.
func metadataInto(draft *store.NewUpload, header http.Header) error {
	const field = "Upload-Metadata"
	values := header.Values(field)
	if len(values) == 0 {
		return nil
	}
	pairs, err := parseMetadata(strings.Join(values, ","))
	if err != nil {
		return invalid(field, "%v", err)
	}
	for _, pair := range pairs {
		if err := draftField(draft, pair[0], pair[1]); err != nil && err != errNoField {
			return invalid(field, "%s: %v", pair[0], err)
		}
	}
	draft.Metadata = strings.Join(values, ",")
	return nil
}

// parseMetadata reads pairs of a key and a value in base64, by commas (tus 1.0.0, "Upload-Metadata"). A key may have no value.
func parseMetadata(text string) ([][2]string, error) {
	if len(text) > metadataLimit {
		return nil, fmt.Errorf("at most %d bytes are expected", metadataLimit)
	}
	if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' && c != '\t' || c > '~' }) {
		return nil, errors.New("printable ASCII is expected") // base64 may have line breaks, which a header must not be told again
	}
	var pairs [][2]string
	if strings.Trim(text, " \t") == "" {
		return nil, nil
	}
	for one := range strings.SplitSeq(text, ",") {
		key, encoded, _ := strings.Cut(strings.Trim(one, " \t"), " ")
		if key == "" || strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return nil, fmt.Errorf("the key %.40q is not printable ASCII", key)
		}
		if slices.ContainsFunc(pairs, func(pair [2]string) bool { return pair[0] == key }) {
			return nil, fmt.Errorf("the key %.40q is there twice", key)
		}
		value, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, fmt.Errorf("the value of %.40q is not base64", key)
		}
		pairs = append(pairs, [2]string{key, string(value)})
	}
	return pairs, nil
}

// mediaType is that of a request, without its parameters; "" where there is none, or no proper one.
func mediaType(r *http.Request) string {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return kind
}

// claimed is what a client says of its bytes by a media type in a header; those that mean "bytes" claim nothing.
func claimed(kind string) string {
	switch kind {
	case offsetStream, partialUpload, "application/octet-stream":
		return ""
	}
	return kind
}
