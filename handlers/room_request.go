package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"sluice/store"
	"sluice/streams"
)

const (
	nameLimit     = 200   // characters of a room's name
	textLimit     = 4000  // characters of a message
	membersLimit  = 1_000 // in one request
	historyUsual  = 50
	historyMost   = 200
	messageRate   = 10 // messages, edits and deletions a second of one user
	messageBurst  = 20
	roomRate      = 10 // changes of rooms and of their members
	roomRateBurst = 100
	membersForOne = 20 // a room that begins with so many counts as one change more
)

// roomRequest is what somebody asks of a room, through whichever door.
type roomRequest struct {
	by     store.Actor
	room   string
	user   string   // whom the path names, of a membership
	seq    int64    // of the message that the path names
	fields []member // of the body, of the query of a GET, or of a WebSocket's message; without the room
}

// roomOperation does what is asked of a room. The result is what the client is told in JSON, or nil.
type roomOperation func(ctx context.Context, q *roomRequest) (result any, err error)

// room is the HTTP door of an operation, which answers with a status where it succeeds.
func (s *Server) room(status int, do roomOperation) http.HandlerFunc {
	return s.serve(func(w http.ResponseWriter, r *http.Request) error {
		q, err := s.roomRequest(w, r)
		if err != nil {
			return err
		}
		result, err := do(r.Context(), q)
		switch {
		case err != nil:
			return err
		case result == nil:
			w.WriteHeader(status)
			return nil
		}
		return s.answer(w, status, result)
	})
}

// roomRequest reads a request. A path that can name nothing is told what one is told that names nothing.
func (s *Server) roomRequest(w http.ResponseWriter, r *http.Request) (*roomRequest, error) {
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return nil, err
	}
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	if !reads {
		if err := s.checkOrigin(r, caller); err != nil {
			return nil, err
		}
	}
	q := new(roomRequest)
	if q.by, err = s.actor(r.Context(), caller, r.URL.Query().Get("orgId")); err != nil {
		return nil, err
	}
	if err := q.place(r); err != nil {
		return nil, err
	}
	if reads {
		q.fields = queried(r.URL.Query())
		return q, nil
	}
	if r.ContentLength == 0 || r.Method == http.MethodDelete {
		return q, nil
	}
	body, err := readJSON(w, r, s.bodyTimeout)
	if err != nil {
		return nil, err
	}
	q.fields, err = members(body)
	return q, err
}

// actor is who a caller is in the rooms of the org that it acts for, which a service token names. From here on the others know
// the name that the token has.
func (s *Server) actor(ctx context.Context, caller *Caller, org string) (store.Actor, error) {
	if !caller.MayService(store.ChatService) {
		return store.Actor{}, problem(http.StatusForbidden, "the token does not allow the service %q", store.ChatService)
	}
	if !caller.AnyOrg {
		org = caller.Org
	} else if org == "" || org == "*" || !label(org) {
		return store.Actor{}, invalid("orgId", "a service token names the org that it acts for")
	}
	by := store.Actor{Org: org, User: caller.User, Name: streams.NameOf(caller.DisplayName), Admin: caller.Admin}
	return by, s.Rooms.Greet(ctx, by)
}

// roomIDs are the ids of rooms. Those of dots alone are not among them: in a path they mean another place.
var roomIDs = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

func roomID(text string) bool { return roomIDs.MatchString(text) && text != "." && text != ".." }

// messageSeqs are the numbers of messages as paths have them.
var messageSeqs = regexp.MustCompile(`^[1-9][0-9]{0,18}$`)

// place reads what the path names.
func (q *roomRequest) place(r *http.Request) (err error) {
	if q.room, err = pathText(r, "id"); err != nil || q.room != "" && !roomID(q.room) {
		return store.ErrNoRoom
	}
	if q.user, err = pathText(r, "user"); err != nil || !label(q.user) {
		return store.ErrNoMember
	}
	if text := chi.URLParam(r, "seq"); text != "" {
		q.seq, err = strconv.ParseInt(text, 10, 64)
		if err != nil || !messageSeqs.MatchString(text) {
			return store.ErrNoMessage
		}
	}
	return nil
}

// pathText is a part of the path, unescaped; "" where the path of the operation has none of this name.
func pathText(r *http.Request, name string) (string, error) {
	text := chi.URLParam(r, name)
	if r.URL.RawPath == "" { // the router has matched the unescaped path
		return text, nil
	}
	return url.PathUnescape(text)
}

// queried are the fields that a GET has in its query; an empty one is the same as none.
func queried(query url.Values) (fields []member) {
	for _, name := range []string{"before", "after", "limit"} {
		if text := query.Get(name); text != "" {
			fields = append(fields, member{name, json.RawMessage(text)})
		}
	}
	return fields
}

// each gives every field to read, whose errors name the field then. Halves of surrogate pairs are refused in all of them: no
// text has them, and decoded they would all be the same character, so that ids which differ would not.
func (q *roomRequest) each(read func(name string, value json.RawMessage) error) error {
	for _, field := range q.fields {
		err := paired(field.value)
		if err == nil {
			err = read(field.name, field.value)
		}
		if err != nil {
			return invalid(field.name, "%v", err)
		}
	}
	return nil
}

// bare refuses all fields, for operations that have none.
func (q *roomRequest) bare() error {
	return q.each(func(string, json.RawMessage) error { return errNoField })
}

// paired refuses JSON in which \u escapes half of a surrogate pair.
func paired(value json.RawMessage) error {
	escaped := func(at int) (unit uint64) {
		if at+6 <= len(value) && value[at] == '\\' && value[at+1] == 'u' {
			unit, _ = strconv.ParseUint(string(value[at+2:at+6]), 16, 16)
		}
		return unit
	}
	for i := 0; i < len(value); i++ {
		if value[i] != '\\' {
			continue
		}
		switch unit := escaped(i); {
		case unit>>10 == 0xD800>>10 && escaped(i+6)>>10 == 0xDC00>>10:
			i += 11
		case unit>>11 == 0xD800>>11:
			return errors.New("it has half of a surrogate pair")
		default:
			i++ // what is escaped may be a backslash
		}
	}
	return nil
}

// sentence reads a string of 1 to most characters.
func sentence(value json.RawMessage, most int) (string, error) {
	var text *string
	if err := json.Unmarshal(value, &text); err != nil || text == nil {
		return "", errors.New("a string is expected")
	}
	if n := utf8.RuneCountInString(*text); n < 1 || n > most {
		return "", fmt.Errorf("1 to %d characters are expected, not %d", most, n)
	}
	return *text, nil
}

// named reads an id of 1 to 128 bytes without control characters.
func named(value json.RawMessage) (string, error) {
	id, err := text(value)
	if err == nil && id == "" {
		err = errors.New("it is empty")
	}
	return id, err
}

// number reads a whole number that is not negative.
func number(value json.RawMessage) (int64, error) {
	n, err := strconv.ParseUint(string(value), 10, 63)
	if err != nil || !decimal.Match(value) {
		return 0, errors.New("a whole number is expected that is not negative")
	}
	return int64(n), nil
}

func required(field string) error { return invalid(field, "the field is required") }

// roomProblem says what an error about a room means to a client; nil: it is none. Whoever may not see a room is told what is
// told where there is none.
func roomProblem(err error) *Problem {
	switch {
	case errors.Is(err, store.ErrNoRoom):
		return problem(http.StatusNotFound, "there is no such room")
	case errors.Is(err, store.ErrNoMember):
		return problem(http.StatusNotFound, "there is no such member")
	case errors.Is(err, store.ErrNoMessage):
		return problem(http.StatusNotFound, "there is no such message")
	case errors.Is(err, store.ErrRoomRights):
		return problem(http.StatusForbidden, "%v", err)
	case errors.Is(err, store.ErrRoomTaken):
		p := problem(http.StatusConflict, "%v", err)
		p.Field = "id"
		return p
	case errors.Is(err, store.ErrClientID):
		p := problem(http.StatusConflict, "%v", err)
		p.Field = "clientId"
		return p
	case errors.Is(err, store.ErrRoomFull):
		return problem(http.StatusConflict, "%v", err)
	}
	return nil
}
