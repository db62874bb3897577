package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"sluice/store"
)

// Rooms is who keeps rooms; its contract is that of streams.Rooms.
type Rooms interface {
	Create(ctx context.Context, by store.Actor, n store.NewRoom) (store.Room, error)
	List(ctx context.Context, by store.Actor) ([]store.Room, error)
	Find(ctx context.Context, by store.Actor, room string) (store.Room, error)
	Update(ctx context.Context, by store.Actor, room string, u store.RoomUpdate) (store.Room, error)
	Delete(ctx context.Context, by store.Actor, room string) error
	Admit(ctx context.Context, by store.Actor, room, user string) error
	Remove(ctx context.Context, by store.Actor, room, user string) error
	Send(ctx context.Context, by store.Actor, room, clientID, text string) (store.Message, error)
	Edit(ctx context.Context, by store.Actor, room string, seq int64, text string) (store.Message, error)
	Erase(ctx context.Context, by store.Actor, room string, seq int64) error
	History(ctx context.Context, by store.Actor, room string, of store.HistoryRange) (store.History, error)
	Read(ctx context.Context, by store.Actor, room string, seq int64) error
	Typing(ctx context.Context, by store.Actor, room string) error
	SetStatus(ctx context.Context, by store.Actor, room string, status store.Status) error
	Users(ctx context.Context, by store.Actor, room string) ([]store.RoomUser, error)
	Stats(ctx context.Context, by store.Actor, room string) (store.RoomStats, error)

	// Greet keeps the name of a user, where the token has one.
	Greet(ctx context.Context, by store.Actor) error

	// Strange names one of the rooms that was never the user's, or is not there; "": there is none.
	Strange(ctx context.Context, org, user string, rooms []string) (string, error)
}

const roomsPath = "/v2/rooms"

// wireRoom is a room as its members see it.
type wireRoom struct {
	ID        string       `json:"id"`
	Name      string       `json:"name"`
	Owner     string       `json:"owner"`
	Members   []wireMember `json:"members"`
	CreatedAt string       `json:"createdAt"`
}

type wireMember struct {
	UserID      string `json:"userId"`
	DisplayName string `json:"displayName"`
}

func roomResource(r *store.Room) wireRoom {
	wire := wireRoom{
		ID: r.ID, Name: r.Name, Owner: r.Owner, Members: make([]wireMember, len(r.Members)), CreatedAt: r.Created.UTC().Format(wireTime),
	}
	for i, one := range r.Members {
		wire.Members[i] = wireMember{one.User, one.Name}
	}
	return wire
}

// createRoom is POST /v2/rooms.
func (s *Server) createRoom(w http.ResponseWriter, r *http.Request) error {
	q, err := s.roomRequest(w, r)
	if err != nil {
		return err
	}
	if err := s.roomAllowance.take(q.by.Org, q.by.User); err != nil {
		return err
	}
	n, err := q.newRoom()
	if err != nil {
		return err
	}
	if err := s.roomAllowance.takeMany(q.by.Org, q.by.User, len(n.Members)/membersForOne); err != nil {
		return err
	}
	room, err := s.Rooms.Create(r.Context(), q.by, n)
	if err != nil {
		return err
	}
	location := url.URL{Path: roomsPath + "/" + room.ID}
	if org := r.URL.Query().Get("orgId"); org != "" {
		location.RawQuery = url.Values{"orgId": {org}}.Encode()
	}
	w.Header().Set("Location", location.String())
	return s.answer(w, http.StatusCreated, roomResource(&room))
}

func (q *roomRequest) newRoom() (n store.NewRoom, err error) {
	err = q.each(func(name string, value json.RawMessage) (err error) {
		switch null := string(value) == "null"; name {
		case "id":
			if null {
				return nil
			}
			if n.ID, err = text(value); err == nil && !roomID(n.ID) {
				err = errors.New("1 to 128 of A–Z a–z 0–9 . _ : - are expected, which are not one or two dots")
			}
		case "name":
			n.Name, err = roomName(value)
		case "members":
			if !null {
				n.Members, err = users(value)
			}
		default:
			err = errNoField
		}
		return err
	})
	if err == nil && n.Name == "" {
		err = required("name")
	}
	return n, err
}

// roomName reads a name, which is one line.
func roomName(value json.RawMessage) (string, error) {
	name, err := sentence(value, nameLimit)
	if err == nil && strings.ContainsFunc(name, unicode.IsControl) {
		err = errors.New("it has control characters")
	}
	return name, err
}

// users reads the ids of users, each of which counts once.
func users(value json.RawMessage) ([]string, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(value, &items); err != nil {
		return nil, errors.New("an array of strings is expected")
	}
	if len(items) > membersLimit {
		return nil, fmt.Errorf("at most %d members are expected, not %d", membersLimit, len(items))
	}
	list, seen := make([]string, 0, len(items)), map[string]bool{}
	for _, item := range items {
		user, err := named(item)
		if err != nil {
			return nil, err
		}
		if !seen[user] {
			seen[user] = true
			list = append(list, user)
		}
	}
	return list, nil
}

// listRooms is GET /v2/rooms: the caller's.
func (s *Server) listRooms(ctx context.Context, q *roomRequest) (any, error) {
	rooms, err := s.Rooms.List(ctx, q.by)
	if err != nil {
		return nil, err
	}
	wire := make([]wireRoom, len(rooms))
	for i := range rooms {
		wire[i] = roomResource(&rooms[i])
	}
	return map[string]any{"rooms": wire}, nil
}

func (s *Server) findRoom(ctx context.Context, q *roomRequest) (any, error) {
	room, err := s.Rooms.Find(ctx, q.by, q.room)
	if err != nil {
		return nil, err
	}
	return roomResource(&room), nil
}

// updateRoom is PATCH: a new name, another owner, or both.
func (s *Server) updateRoom(ctx context.Context, q *roomRequest) (any, error) {
	if err := s.roomAllowance.take(q.by.Org, q.by.User); err != nil {
		return nil, err
	}
	var u store.RoomUpdate
	err := q.each(func(name string, value json.RawMessage) error {
		var text string
		var err error
		switch name {
		case "name":
			u.Name = &text
			text, err = roomName(value)
		case "owner":
			u.Owner = &text
			text, err = named(value)
		default:
			err = errNoField
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if u.Name == nil && u.Owner == nil {
		return nil, problem(http.StatusBadRequest, "a name or an owner is expected")
	}
	room, err := s.Rooms.Update(ctx, q.by, q.room, u)
	if err != nil {
		return nil, err
	}
	return roomResource(&room), nil
}

func (s *Server) deleteRoom(ctx context.Context, q *roomRequest) (any, error) {
	if err := s.roomAllowance.take(q.by.Org, q.by.User); err != nil {
		return nil, err
	}
	return nil, s.Rooms.Delete(ctx, q.by, q.room)
}

// admitMember is PUT of a membership: who is a member already stays one.
func (s *Server) admitMember(ctx context.Context, q *roomRequest) (any, error) {
	if err := s.roomAllowance.take(q.by.Org, q.by.User); err != nil {
		return nil, err
	}
	if err := q.bare(); err != nil {
		return nil, err
	}
	return nil, s.Rooms.Admit(ctx, q.by, q.room, q.user)
}

// removeMember is DELETE of a membership; of one's own it is leaving.
func (s *Server) removeMember(ctx context.Context, q *roomRequest) (any, error) {
	if err := s.roomAllowance.take(q.by.Org, q.by.User); err != nil {
		return nil, err
	}
	return nil, s.Rooms.Remove(ctx, q.by, q.room, q.user)
}

// roomStream is GET /v2/rooms/{id}/stream: the stream of all kinds with this room alone.
func (s *Server) roomStream(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	room, err := pathText(r, "id")
	if err != nil || !roomID(room) {
		err = store.ErrNoRoom
	}
	for _, name := range []string{"services", "rooms", "propertyId"} {
		if err == nil && query.Has(name) {
			err = invalid(name, "the path says what is streamed: this room alone")
		}
	}
	if err != nil {
		if _, _, who := s.reader(r); who != nil { // nobody is told of anything before
			return who
		}
		return err
	}
	query.Set("services", store.ChatService)
	query.Set("rooms", room)
	narrowed, at := *r, *r.URL
	at.RawQuery = query.Encode()
	narrowed.URL = &at
	return s.stream(w, &narrowed)
}
