package handlers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"sluice/store"
)

const (
	bodyLimit   = 1 << 20
	dataLimit   = 64 << 10
	batchLimit  = 100
	labelLimit  = 128
	fieldLimit  = 9                // the fields that an event has
	depthLimit  = 512              // of nested JSON; Postgres has a limit of its own, and a stack
	bodyTimeout = 15 * time.Second // for a whole body of 1 MiB
)

var (
	eventIDs   = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)
	eventTypes = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
)

// publish is POST /v2/events: one event or up to 100, all or none (docs/protocol.md, "Events").
func (s *Server) publish(w http.ResponseWriter, r *http.Request) error {
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return err
	}
	if err := s.checkOrigin(r, caller); err != nil {
		return err
	}
	if !caller.May("publish") {
		return problem(http.StatusForbidden, "the token lacks the scope publish")
	}
	if err := s.allowance.take(caller.Org, caller.User); err != nil {
		return err
	}
	body, err := readJSON(w, r, s.bodyTimeout)
	if err != nil {
		return err
	}
	drafts, err := s.parseEvents(body, caller)
	if err != nil {
		return err
	}
	appended, err := s.Appender.Append(r.Context(), drafts)
	if err != nil {
		return err
	}
	type wire struct {
		ID        string `json:"id"`
		Cursor    string `json:"cursor"`
		Duplicate bool   `json:"duplicate"`
	}
	events := make([]wire, len(appended))
	for i, one := range appended {
		events[i] = wire{one.ID, one.Cursor.String(), one.Duplicate}
	}
	return s.answer(w, http.StatusCreated, map[string]any{"events": events})
}

// readJSON reads a body that is typed as JSON, within its limits of size and time.
func readJSON(w http.ResponseWriter, r *http.Request, patience time.Duration) ([]byte, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return nil, problem(http.StatusUnsupportedMediaType, "the body must be application/json")
	}
	body, err := readBody(w, r, patience)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(body) {
		return nil, problem(http.StatusBadRequest, "the body is not UTF-8")
	}
	if depth(body) > depthLimit {
		return nil, problem(http.StatusBadRequest, "the JSON is nested deeper than %d", depthLimit)
	}
	return body, nil
}

// readBody reads a whole body, which has to be there in time.
func readBody(w http.ResponseWriter, r *http.Request, patience time.Duration) ([]byte, error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(patience))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.Header().Set("Connection", "close")
		return nil, problem(http.StatusRequestTimeout, "the body did not arrive within %s", patience)
	}
	var large *http.MaxBytesError
	if err != nil && !errors.As(err, &large) {
		return nil, problem(http.StatusBadRequest, "the body ended early")
	}
	if err != nil {
		return nil, err
	}
	_ = control.SetReadDeadline(time.Time{})
	return body, nil
}

// depth counts how deep brackets nest outside of strings.
func depth(text []byte) (deepest int) {
	now, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}', c == ']':
			now--
		}
	}
	return deepest
}

// parseEvents reads one event or an array of them.
func (s *Server) parseEvents(body []byte, caller *Caller) ([]store.Draft, error) {
	items := []json.RawMessage{body}
	single := true
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '[' {
		single, items = false, nil // not the first item's bytes: decoding would write over the body
		if err := json.Unmarshal(body, &items); err != nil {
			return nil, problem(http.StatusBadRequest, "the body is not JSON: %v", err)
		}
		if len(items) < 1 || len(items) > batchLimit {
			return nil, problem(http.StatusBadRequest, "a batch has 1 to %d events, not %d", batchLimit, len(items))
		}
	}
	drafts := make([]store.Draft, len(items))
	for i, item := range items {
		var err error
		if drafts[i], err = s.parseEvent(item, caller); err != nil {
			var p *Problem
			if !single && errors.As(err, &p) {
				p.Field = strings.TrimSuffix(fmt.Sprintf("events[%d].%s", i, p.Field), ".")
			}
			return nil, err
		}
	}
	return drafts, nil
}

// member is one field of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members reads one JSON object without guessing: names are compared exactly, and none may stand twice.
func members(text []byte) ([]member, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if first, err := decoder.Token(); err != nil || first != json.Delim('{') {
		return nil, problem(http.StatusBadRequest, "one JSON object is expected")
	}
	var fields []member
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, problem(http.StatusBadRequest, "this is not JSON: %v", err)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, problem(http.StatusBadRequest, "this is not JSON: %v", err)
		}
		key := name.(string) // within an object every other token is a string
		if slices.ContainsFunc(fields, func(one member) bool { return one.name == key }) {
			return nil, invalid(key, "the field is there twice")
		}
		if len(key) > labelLimit {
			return nil, invalid(strings.ToValidUTF8(key[:labelLimit], ""), "there is no such field")
		}
		fields = append(fields, member{key, value})
		if len(fields) > fieldLimit {
			return fields, nil // one of them is unknown, and an object of very many fields need not be read to its end
		}
	}
	if _, err := decoder.Token(); err != nil {
		return nil, problem(http.StatusBadRequest, "this is not JSON: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, problem(http.StatusBadRequest, "there is something behind the object")
	}
	return fields, nil
}

// parseEvent checks one event. What concerns rights comes last: a wrong event is wrong for everybody. The scope publish
// is an application's own right, so the token's properties do not narrow it; its services do.
func (s *Server) parseEvent(item []byte, caller *Caller) (store.Draft, error) {
	draft := store.Draft{Event: store.Event{Data: json.RawMessage("{}")}}
	fields, err := members(item)
	if err != nil {
		return draft, err
	}
	for _, field := range fields {
		if err := s.parseField(&draft, field.name, field.value); err != nil {
			p := invalid(field.name, "%v", err)
			if errors.Is(err, errDataTooLarge) {
				p = problem(http.StatusRequestEntityTooLarge, "%v", err)
				p.Field = field.name
			}
			return draft, p
		}
	}
	switch {
	case draft.Service == "":
		return draft, invalid("service", "the field is required")
	case draft.Type == "":
		return draft, invalid("type", "the field is required")
	case !draft.IDGiven:
		draft.ID = uuid.Must(uuid.NewV7()).String() // once, before the first try: a retry uses it again
	}
	return draft, checkRights(&draft, caller)
}

// parseField reads one field into the draft. An optional field that is null is the same as an absent one.
func (s *Server) parseField(draft *store.Draft, name string, value json.RawMessage) (err error) {
	switch null := string(value) == "null"; name {
	case "id":
		if draft.IDGiven = !null; null {
			return nil
		}
		if draft.ID, err = text(value); err == nil && !eventIDs.MatchString(draft.ID) {
			err = errors.New("1 to 128 of A–Z a–z 0–9 . _ : - are expected")
		}
	case "orgId":
		draft.Org, err = optional(value)
	case "service":
		if draft.Service, err = text(value); err == nil {
			err = s.Catalogue.Publishable(draft.Service)
		}
	case "type":
		if draft.Type, err = text(value); err == nil && !eventTypes.MatchString(draft.Type) {
			err = fmt.Errorf("a name like %s is expected", eventTypes)
		}
	case "propertyId":
		draft.PropertyID, err = optional(value)
	case "entityType":
		draft.EntityType, err = optional(value)
	case "entityId":
		draft.EntityID, err = optional(value)
	case "userId":
		draft.UserID, err = optional(value)
	case "data":
		if !null {
			draft.Data, err = object(value)
		}
	default:
		err = errors.New("there is no such field")
	}
	return err
}

// checkRights finds the org that the event is for, and whether the caller may publish there.
func checkRights(draft *store.Draft, caller *Caller) error {
	p := problem(http.StatusForbidden, "")
	switch {
	case caller.AnyOrg && (draft.Org == "" || draft.Org == "*"):
		return invalid("orgId", "a service token names the org of each event")
	case !caller.AnyOrg && draft.Org != "" && draft.Org != caller.Org:
		p.Field, p.Detail = "orgId", "the token is of another org"
		return p
	case !caller.MayService(draft.Service):
		p.Field, p.Detail = "service", "the token does not allow the service"
		return p
	}
	if !caller.AnyOrg {
		draft.Org = caller.Org
	}
	return nil
}

// text reads a string, or a whole number as its decimal text, of at most 128 bytes without control characters.
func text(value json.RawMessage) (string, error) {
	var id wireID
	if err := id.UnmarshalJSON(value); err != nil {
		return "", err
	}
	if !label(string(id)) {
		return "", fmt.Errorf("at most %d bytes without control characters are expected", labelLimit)
	}
	return string(id), nil
}

// optional is text that may be null, which is the same as absent.
func optional(value json.RawMessage) (string, error) {
	if string(value) == "null" {
		return "", nil
	}
	return text(value)
}

func label(text string) bool {
	if len(text) > labelLimit || !utf8.ValidString(text) { // a query may have what JSON cannot
		return false
	}
	for _, c := range text {
		if c < 0x20 || c >= 0x7f && c < 0xa0 {
			return false
		}
	}
	return true
}

var errDataTooLarge = fmt.Errorf("data is larger than %d bytes", dataLimit)

// object keeps a JSON object as it came, without the white space between its tokens: a bare line feed would tear the
// frames that carry it.
func object(value json.RawMessage) (json.RawMessage, error) {
	if value[0] != '{' {
		return nil, errors.New("an object is expected")
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil {
		return nil, err
	}
	if compact.Len() > dataLimit {
		return nil, errDataTooLarge
	}
	return compact.Bytes(), nil
}
