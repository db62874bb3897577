package units

import "testing"

// TestSizes reads sizes with their units and prints them as they would be written.
func TestSizes(t *testing.T) {
	for text, want := range map[string]Bytes{"0": 0, "17": 17, "17B": 17, "3KiB": 3 << 10, "256MiB": 256 << 20, "2 GiB": 2 << 30} {
		var got Bytes
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %d (%v)", text, got, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5GiB", "10MB", "9223372036854775807GiB", "99999999999999999999"} {
		if err := new(Bytes).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	for size, want := range map[Bytes]string{0: "0B", 1: "1B", 1 << 10: "1KiB", 1<<20 + 1: "1048577B", 3 << 30: "3GiB"} {
		if size.String() != want {
			t.Errorf("%d is printed as %s", int64(size), size)
		}
	}
}
