package store

import "time"

// Message is one thing said in a room.
type Message struct {
	Seq      int64 // in the room, from 1, without gaps
	User     string
	Name     string // of the user, as it was then
	Text     string // 1 to 4000 characters as they were sent; "" once deleted
	ClientID string
	Time     time.Time
	Edited   time.Time // zero: never
	Deleted  bool
}

// HistoryRange says which messages of a room are wanted: the newest Limit ones before Before, or, where After is given, the
// oldest Limit ones after it.
type HistoryRange struct {
	Before *int64 // nil: there is no end
	After  *int64 // nil: the newest
	Limit  int
}

// History is a part of a room's messages, oldest first.
type History struct {
	Messages []Message
	More     bool // there are more beyond the end that the limit has cut: older ones, or newer ones with After
}
