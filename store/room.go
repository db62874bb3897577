package store

import (
	"encoding/json"
	"errors"
	"time"
)

// ChatService is the service of the events that rooms are told by; it is the server's own. They are given to the members of their
// room alone, whatever else a filter admits.
const ChatService = "chat"

// What can be wrong with a request to a room.
var (
	// ErrNoRoom: there is no such room, or none that the user may see: nobody is told which.
	ErrNoRoom = errors.New("there is no such room")

	// ErrRoomTaken: there is, or was, a room with this id.
	ErrRoomTaken = errors.New("the room's id is taken")

	// ErrRoomRights: the user is a member, but may not do that.
	ErrRoomRights = errors.New("the room does not allow that to this user")

	// ErrRoomFull: the room has as many members as one may have (RoomMembers).
	ErrRoomFull = errors.New("the room has as many members as a room may have")

	// ErrNoMember: the one who is to be removed, or to own the room, is no member of it.
	ErrNoMember = errors.New("there is no such member")

	// ErrNoMessage: the room has no message with this number, or not any more.
	ErrNoMessage = errors.New("there is no such message")

	// ErrClientID: the user has sent a message with this clientId to another room.
	ErrClientID = errors.New("the clientId is that of another message")
)

// RoomMembers is how many members a room may have.
const RoomMembers = 10_000

// Actor is the user who asks something of a room.
type Actor struct {
	Org, User string
	Name      string // as the token has it; "": it has none
	Admin     bool   // may change the membership of any room of the org, rename it and delete it
}

// NewRoom is a room that is to be made. Its maker owns it and is a member, named or not.
type NewRoom struct {
	ID      string // "": the server makes one
	Name    string
	Members []string
}

// RoomUpdate is what is to be changed of a room; nil: it stays.
type RoomUpdate struct {
	Name  *string
	Owner *string // a member
}

// Room is one of an org's rooms.
type Room struct {
	ID, Name, Owner string
	Created         time.Time
	Members         []Member // by the time of their joining
}

// Member is a user in a room.
type Member struct {
	User string
	Name string // "" until the user's first request
}

// RoomUser is a member as the others see it.
type RoomUser struct {
	Member
	Status   Status
	LastSeen time.Time // zero: never; of those who are there: now
}

// Status says whether a user is there.
type Status string

// The statuses of docs/protocol.md.
const (
	StatusOnline  Status = "online"
	StatusAway    Status = "away"
	StatusOffline Status = "offline"
)

// RoomStats are the figures of a room as one member sees it.
type RoomStats struct {
	Connections int   // open streams that carry the room, of all instances
	Online      int   // members who are not offline
	Messages    int64 // that are kept and not deleted
	Unread      int64 // of others, not deleted, beyond the member's read mark
}

// The types of the events by which it is known who may be told of what; the others are nobody's business but the clients'.
const (
	MemberAdded    = "member_added"
	MemberRemoved  = "member_removed"
	RoomDeleted    = "room_deleted"
	MessageUpdated = "message_updated"
	MessageDeleted = "message_deleted"
)

// Concerns tells whom an event of a room is about, which is not always who has done it (Event.UserID), and which message; of
// membership that is the newest one at that place.
func (e *Event) Concerns() (user string, message int64) {
	var news roomNews
	_ = json.Unmarshal(e.Data, &news) // it was made here (roomEvent)
	return news.User, news.Seq
}
