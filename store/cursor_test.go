package store

import (
	"errors"
	"math"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseCursor(t *testing.T) {
	for text, want := range map[string]Cursor{
		"a-0":                              {"a", 0},
		"k3v9q2m1xz-42":                    {"k3v9q2m1xz", 42},
		"0123456789abcdef-1":               {"0123456789abcdef", 1},
		"z-9223372036854775807":            {"z", math.MaxInt64},
		"z-9223372036854775808":            {"z", math.MaxInt64}, // past int64: ahead of every log
		"z-9999999999999999999":            {"z", math.MaxInt64},
		"0-1000000000000000000":            {"0", 1_000_000_000_000_000_000},
		strings.Repeat("z", 16) + "-10001": {strings.Repeat("z", 16), 10001},
	} {
		if got, err := ParseCursor(text); err != nil || got != want {
			t.Errorf("%q is %+v (%v), not %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "-", "a", "a-", "-1", "1", "a-01", "a-00", "a--1", "a-+1", "a-1-", "a-1-2", "a-1 ", " a-1", "A-1", "a_b-1",
		"é-1", "a-١", "a-1\n", "a-1\x00", "a-0x1", "a-1e3", "a-1_000", strings.Repeat("a", 17) + "-1", "a-10000000000000000000",
		"a-" + strings.Repeat("1", 1000),
	} {
		if got, err := ParseCursor(text); !errors.Is(err, ErrMalformedCursor) || got != (Cursor{}) {
			t.Errorf("%q is taken for %+v (%v)", text, got, err)
		}
	}
}

func TestCursorRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cursor := Cursor{
			Epoch: rapid.StringMatching(`[0-9a-z]{1,16}`).Draw(t, "epoch"),
			Seq:   rapid.Int64Range(0, math.MaxInt64).Draw(t, "seq"),
		}
		if back, err := ParseCursor(cursor.String()); err != nil || back != cursor {
			t.Fatalf("%v came back as %v (%v)", cursor, back, err)
		}
	})
}

// FuzzParseCursor holds the parser against the pattern of the protocol, and its text against itself.
func FuzzParseCursor(f *testing.F) {
	pattern := regexp.MustCompile(`\A[0-9a-z]{1,16}-(0|[1-9][0-9]{0,18})\z`)
	for _, seed := range []string{"a-0", "k3v9q2m1xz-42", "z-9999999999999999999", "a-01", "A-1", "", "a-1\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cursor, err := ParseCursor(text)
		if pattern.MatchString(text) != (err == nil) {
			t.Fatalf("%q: %+v, %v", text, cursor, err)
		}
		if err == nil && cursor.Seq != math.MaxInt64 && cursor.String() != text {
			t.Fatalf("%q came back as %q", text, cursor)
		}
	})
}
