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
	Private       Private  // where there are Properties; whoever has all sees everything
	Rooms         []string // sorted, of the service chat; nil: all that the reader is a member of
	Prefix        string   // of the types that are let through
	Without       string   // "": nothing; the prefix of types that are not
}

// Private says which of the events that are for one user alone (store.Event.Audience) a filter with Properties lets through.
type Private uint8

// Whose private events, and of which properties.
const (
	PrivateOwn      Private = iota // the reader's, whatever their property
	PrivateNarrowed                // the reader's, as far as Properties let them through: they were asked for
	PrivateAll                     // everybody's, as far as Properties let them through: an admin has asked for them
)

// Admits says whether the filter lets an event through to a user; service is the bit of the event's service, any but chat,
// whose events are the members' of their rooms.
func (f *Filter) Admits(service uint64, event *store.Event, user string) bool {
	if !f.carries(service, event) {
		return false
	}
	if event.Audience != "" && !f.sharesPrivate() {
		if event.Audience != user {
			return false
		}
		if f.Private == PrivateOwn {
			return true
		}
	}
	if f.AllProperties || event.PropertyID == "" {
		return true
	}
	_, found := slices.BinarySearch(f.Properties, event.PropertyID)
	return found
}

// sharesPrivate says whether all users with this filter see the same private events.
func (f *Filter) sharesPrivate() bool { return f.AllProperties || f.Private == PrivateAll }

// carries says whether the filter lets an event through as far as its service and type go.
func (f *Filter) carries(service uint64, event *store.Event) bool {
	return f.Services&service != 0 && strings.HasPrefix(event.Type, f.Prefix) &&
		(f.Without == "" || !strings.HasPrefix(event.Type, f.Without))
}

// key is equal for filters that admit the same events to the same user.
func (f *Filter) key() string {
	var key strings.Builder
	key.WriteString(strconv.FormatUint(f.Services, 36))
	for _, room := range f.Rooms {
		key.WriteString("#" + strconv.Itoa(len(room)) + ":" + room) // so that no two lists have one text
	}
	if f.Prefix != "" || f.Without != "" {
		key.WriteString("+" + f.Prefix + "-" + f.Without)
	}
	if f.AllProperties {
		return key.String()
	}
	for _, property := range f.Properties {
		key.WriteString("/" + strconv.Itoa(len(property)) + ":" + property)
	}
	return key.String() + "/" + strconv.Itoa(int(f.Private))
}
