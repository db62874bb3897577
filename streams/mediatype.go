package streams

import (
	"fmt"
	"mime"
	"strings"

	"github.com/gabriel-vasile/mimetype"
)

// sniffBytes are what a type is told by.
const sniffBytes = 64 << 10

const (
	typeCSV   = "text/csv"
	typeExcel = "application/vnd.ms-excel"
)

// allowedTypes are the files that are taken.
var allowedTypes = map[string]bool{
	"image/jpeg": true, "image/png": true, "image/gif": true, "image/webp": true, "application/pdf": true, typeCSV: true, typeExcel: true,
	"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": true,
}

// allowedType says whether files of a media type are taken; parameters do not matter.
func allowedType(claimed string) bool {
	name, _, err := mime.ParseMediaType(claimed)
	return err == nil && allowedTypes[name]
}

func init() { mimetype.SetLimit(sniffBytes) }

// judgeType says what a file is whose first bytes these are, or why it is not taken. What its client claims has to fit.
func judgeType(head []byte, claimed string) (mimeType, reason string) {
	found := mimetype.Detect(head)
	if claimed != "" {
		claimed, _, _ = mime.ParseMediaType(claimed)
	}
	name, _, _ := strings.Cut(found.String(), ";")
	switch {
	case claimed == typeCSV && (found.Is("text/plain") || found.Is(typeCSV)):
		// A table of one column, or none at all, is a text like any other.
		name = typeCSV
	case claimed == typeExcel && found.Is("application/x-ole-storage"):
		// The container is told from its first bytes, what it contains not always.
		name = typeExcel
	}
	switch {
	case !allowedTypes[name]:
		return "", fmt.Sprintf("files of the type %s are not taken", name)
	case claimed != "" && claimed != name:
		return "", fmt.Sprintf("the file is %s, and not %s as was said", name, claimed)
	}
	return name, ""
}
