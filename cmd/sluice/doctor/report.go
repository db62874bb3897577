package doctor

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Level says how good a finding is.
type Level string

// From good to bad: with Fail something must change, with Warn it should be thought of.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is the outcome of one probe.
type Finding struct {
	Check  string   `json:"check"`
	Level  Level    `json:"level"`
	Says   string   `json:"says"`
	Change []string `json:"change,omitempty"` // what to set, by who has to
}

// Report is all that was found, in the order of the probes.
type Report struct {
	URL      string    `json:"url"`
	Findings []Finding `json:"findings"`
}

// Count says how many findings are of a level.
func (r Report) Count(level Level) int {
	count := 0
	for _, one := range r.Findings {
		if one.Level == level {
			count++
		}
	}
	return count
}

// Print writes a line for each finding, and below it what to change.
func (r Report) Print(to io.Writer) error {
	width := 0
	for _, one := range r.Findings {
		width = max(width, len(one.Check))
	}
	var text strings.Builder
	for _, one := range r.Findings {
		level := string(one.Level)
		if one.Level == Fail {
			level = "FAIL"
		}
		fmt.Fprintf(&text, "%-4s  %-*s  %s\n", level, width, one.Check, one.Says)
		for _, line := range one.Change {
			fmt.Fprintf(&text, "      %-*s  -> %s\n", width, "", line)
		}
	}
	_, err := io.WriteString(to, text.String())
	return err
}

// rounded is a time for people to read.
func rounded(d time.Duration) time.Duration {
	if d > 10*time.Second || d < -10*time.Second {
		return d.Round(time.Second)
	}
	return d.Round(max(time.Millisecond, d.Abs().Round(time.Millisecond)/100))
}

// named joins names for people to read.
func named(names []string) string {
	names = slices.Sorted(slices.Values(names))
	return strings.Join(names, ", ")
}
