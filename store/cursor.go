package store

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// ErrMalformedCursor says that a text is not a cursor.
var ErrMalformedCursor = errors.New("malformed cursor: expected <epoch>-<seq>")

// Cursor is a position in an org's log: everything up to and including Seq has been read, in the log's incarnation
// Epoch. Its text is `<epoch>-<seq>` (docs/protocol.md, "Cursor").
type Cursor struct {
	Epoch string
	Seq   int64
}

// String gives the cursor's text, as it stands in the `id:` of an SSE frame.
func (c Cursor) String() string {
	return c.Epoch + "-" + strconv.FormatInt(c.Seq, 10)
}

// ParseCursor reads `^[0-9a-z]{1,16}-(0|[1-9][0-9]{0,18})$`. A sequence past int64 is well-formed and comes back as
// math.MaxInt64, which is ahead of every log. Anything else is ErrMalformedCursor.
func ParseCursor(text string) (Cursor, error) {
	epoch, digits, found := strings.Cut(text, "-")
	if !found || len(epoch) < 1 || len(epoch) > 16 || len(digits) < 1 || len(digits) > 19 {
		return Cursor{}, ErrMalformedCursor
	}
	for i := range len(epoch) {
		if c := epoch[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return Cursor{}, ErrMalformedCursor
		}
	}
	if digits[0] == '0' && len(digits) > 1 {
		return Cursor{}, ErrMalformedCursor
	}
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return Cursor{}, ErrMalformedCursor
		}
	}
	seq, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		seq = math.MaxInt64
	}
	return Cursor{Epoch: epoch, Seq: seq}, nil
}
