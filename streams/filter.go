package streams

import (
	"slices"
	"strconv"
	"strings"

	"sluice/store"
)

// Filter says which events of an org a subscriber is given. Events that concern the whole org pass whatever the
// properties are.
type Filter struct {
	Services      uint64   // bits of store.Catalogue
	AllProperties bool     // else Properties alone
	Properties    []string // sorted, each once
	Prefix        string   // of the types that are let through
	Without       string   // "": nothing; the prefix of types that are not
}

// Admits says whether the filter lets an event through; service is the bit of the event's service.
func (f *Filter) Admits(service uint64, event *store.Event) bool {
	if !f.carries(service, event) {
		return false
	}
	if f.AllProperties || event.PropertyID == "" {
		return true
	}
	_, found := slices.BinarySearch(f.Properties, event.PropertyID)
	return found
}

// carries says whether the filter lets an event through as far as its service and type go.
func (f *Filter) carries(service uint64, event *store.Event) bool {
	return f.Services&service != 0 && strings.HasPrefix(event.Type, f.Prefix) &&
		(f.Without == "" || !strings.HasPrefix(event.Type, f.Without))
}

// key is equal for filters that admit the same events.
func (f *Filter) key() string {
	var key strings.Builder
	key.WriteString(strconv.FormatUint(f.Services, 36))
	if f.Prefix != "" || f.Without != "" {
		key.WriteString("+" + f.Prefix + "-" + f.Without)
	}
	if f.AllProperties {
		return key.String()
	}
	for _, property := range f.Properties {
		key.WriteByte('/')
		key.WriteString(strconv.Itoa(len(property))) // so that no two lists have one text
		key.WriteByte(':')
		key.WriteString(property)
	}
	return key.String() + "/"
}
