// Package units reads and writes what settings measure.
package units

import (
	"fmt"
	"strconv"
	"strings"
)

// Bytes is a number of bytes that is written with a unit.
type Bytes int64

var byteUnits = []struct {
	name string
	size Bytes
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText reads "256MiB", "64KiB" or a plain number of bytes.
func (b *Bytes) UnmarshalText(text []byte) error {
	digits, unit := string(text), Bytes(1)
	for _, one := range byteUnits {
		if rest, found := strings.CutSuffix(digits, one.name); found {
			digits, unit = strings.TrimSpace(rest), one.size
			break
		}
	}
	number, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || number < 0 || number > int64(1<<62/unit) {
		return fmt.Errorf("%q is not a size such as 256MiB", text)
	}
	*b = Bytes(number) * unit
	return nil
}

// String writes it with the largest unit that it is a whole number of.
func (b Bytes) String() string {
	for _, one := range byteUnits {
		if b >= one.size && b%one.size == 0 {
			return strconv.FormatInt(int64(b/one.size), 10) + one.name
		}
	}
	return "0B"
}
