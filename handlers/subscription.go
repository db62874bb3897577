package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"sluice/store"
	"sluice/streams"
)

// asked is what a client wants to read, by a query or by a message.
type asked struct {
	org        string // of a service token
	services   []string
	rooms      []string
	roomsGiven bool
	properties []string
	start      streams.Start
	given      bool // at least one of services, rooms, propertyId, cursor
}

// askedBy reads a request's query and its Last-Event-ID.
func askedBy(r *http.Request) (asked, error) {
	query := r.URL.Query()
	a := asked{
		org: query.Get("orgId"), services: listed(query["services"]), rooms: listed(query["rooms"]), roomsGiven: query.Has("rooms"),
		properties: listed(query["propertyId"]),
		given:      query.Has("services") || query.Has("rooms") || query.Has("propertyId") || query.Has("cursor"),
	}
	if slices.Equal(a.properties, []string{"null"}) {
		a.properties = nil // what the clients of the old API send for none
	}
	var err error
	a.start, err = startOf(r.Header.Get("Last-Event-ID"), query.Get("cursor"))
	return a, err
}

// askedIn reads the fields of a message; only the first one of a WebSocket may say where to start.
func askedIn(fields []member, first bool) (a asked, err error) {
	for _, field := range fields {
		null := string(field.value) == "null"
		switch field.name {
		case "services":
			a.services, err = texts(field.value)
		case "rooms":
			a.roomsGiven = !null
			a.rooms, err = texts(field.value)
		case "propertyId":
			var one string
			if one, err = optional(field.value); one != "" {
				a.properties = []string{one}
			}
		case "version":
			if !null && string(field.value) != "1" {
				err = errors.New("the version of the protocol is 1")
			}
		case "cursor":
			if !first {
				err = errors.New("a stream that is open goes on where it is")
			} else if !null {
				var cursor string
				if cursor, err = text(field.value); err == nil {
					a.start, err = startOf("", cursor)
				}
			}
		default:
			err = errors.New("there is no such field")
		}
		var known *Problem
		if err != nil && !errors.As(err, &known) {
			err = invalid(field.name, "%v", err)
		}
		if err != nil {
			return a, err
		}
	}
	return a, nil
}

// texts reads an array of texts, each once, or null.
func texts(value json.RawMessage) ([]string, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(value, &items); err != nil {
		return nil, errors.New("an array of strings is expected")
	}
	list := make([]string, len(items))
	for i, item := range items {
		var err error
		if list[i], err = text(item); err != nil {
			return nil, err
		}
	}
	return listed(list), nil
}

// subscription checks what is asked for against the token. It keeps nothing of a request.
func (s *Server) subscription(ctx context.Context, caller *Caller, a asked) (*streams.Subscription, error) {
	sub := &streams.Subscription{
		Org: caller.Org, User: caller.User, ConnectionID: uuid.NewString(), Expires: caller.Expires, Start: a.start,
	}
	if caller.AnyOrg {
		sub.Org = a.org
		if sub.Org == "" || sub.Org == "*" || !label(sub.Org) {
			return nil, invalid("orgId", "a service token names the org that it acts for")
		}
	}
	var err error
	if sub.Services, sub.Filter.Services, err = s.services(a.services, caller); err != nil {
		return nil, err
	}
	if err := s.narrow(ctx, &sub.Filter, caller, sub.Org, a.properties); err != nil {
		return nil, err
	}
	if err := s.chat(ctx, sub, caller, a); err != nil {
		return nil, err
	}
	for _, text := range []*string{&sub.Org, &sub.User} {
		*text = strings.Clone(*text)
	}
	return sub, nil
}

// roomsLimit is how many rooms a stream or poll may name.
const roomsLimit = 100

// chat admits the rooms that are asked for. A room that the caller has left is let through: of what it carries, the log decides.
func (s *Server) chat(ctx context.Context, sub *streams.Subscription, caller *Caller, a asked) error {
	if !slices.Contains(a.services, store.ChatService) {
		if a.roomsGiven {
			return invalid("rooms", "rooms are of the service chat, which is not asked for")
		}
		return nil
	}
	if len(a.rooms) > roomsLimit {
		return invalid("rooms", "at most %d rooms are expected; none means all", roomsLimit)
	}
	if err := s.Rooms.Greet(ctx, store.Actor{Org: sub.Org, User: sub.User, Name: caller.DisplayName}); err != nil || len(a.rooms) == 0 {
		return err
	}
	sub.Filter.Rooms = slices.Sorted(slices.Values(a.rooms))
	for _, room := range a.rooms {
		if !label(room) {
			return store.ErrNoRoom
		}
	}
	strange, err := s.Rooms.Strange(ctx, sub.Org, sub.User, a.rooms)
	if err == nil && strange != "" {
		err = store.ErrNoRoom
	}
	return err
}

// narrow admits the properties that are asked for, or all that the caller has.
func (s *Server) narrow(ctx context.Context, filter *streams.Filter, caller *Caller, org string, asked []string) (err error) {
	if filter.AllProperties = caller.Admin; !caller.Admin {
		if filter.Properties, err = s.Auth.Properties(ctx, caller, org); err != nil {
			return err
		}
	}
	switch {
	case len(asked) == 0:
		return nil
	case len(asked) > 1:
		return invalid("propertyId", "one property is expected")
	case !label(asked[0]):
		return invalid("propertyId", "at most %d bytes without control characters are expected", labelLimit)
	case !filter.AllProperties && !slices.Contains(filter.Properties, asked[0]):
		return problem(http.StatusForbidden, "the token does not allow the property %q", asked[0])
	}
	filter.Private = streams.PrivateNarrowed
	if filter.AllProperties {
		filter.Private = streams.PrivateAll
	}
	filter.AllProperties, filter.Properties = false, asked
	return nil
}

// services checks names and gives their bits. None named: all that the token allows, but the server's own.
func (s *Server) services(names []string, caller *Caller) ([]string, uint64, error) {
	if len(names) == 0 {
		for _, name := range s.Catalogue.Usual() {
			if caller.MayService(name) {
				names = append(names, name)
			}
		}
	}
	var mask uint64
	for _, name := range names {
		bits, known := s.Catalogue.Mask(name)
		if !known {
			return nil, 0, invalid("services", "there is no service %q; there are %s", name, strings.Join(s.Catalogue.Names(), ", "))
		}
		if !caller.MayService(name) {
			return nil, 0, problem(http.StatusForbidden, "the token does not allow the service %q", name)
		}
		mask |= bits
	}
	return names, mask, nil
}

// listed reads a list given by commas, by repetition, or both; each once, in order.
func listed(values []string) []string {
	var list []string
	seen := map[string]bool{"": true}
	for _, value := range values {
		for one := range strings.SplitSeq(value, ",") {
			if one = strings.Clone(strings.TrimSpace(one)); !seen[one] {
				seen[one] = true
				list = append(list, one)
			}
		}
	}
	return list
}

// startOf reads the position. What a browser repeats by itself for ever must not be an error; what a client wrote is.
func startOf(lastEventID, cursor string) (streams.Start, error) {
	switch {
	case lastEventID != "":
		at, err := store.ParseCursor(lastEventID)
		if err != nil {
			return streams.Start{Kind: streams.StartMalformed}, nil
		}
		return streams.Start{Kind: streams.StartAt, Cursor: at}, nil
	case cursor == "":
		return streams.Start{}, nil
	case cursor == "earliest":
		return streams.Start{Kind: streams.StartEarliest}, nil
	}
	at, err := store.ParseCursor(cursor)
	if err != nil {
		return streams.Start{}, invalid("cursor", "%v", err)
	}
	return streams.Start{Kind: streams.StartAt, Cursor: at}, nil
}
