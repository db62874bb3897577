package handlers

import (
	"context"
	"net/http"

	"sluice/store"
)

// chatService is the service of the events of rooms.
const chatService = "chat"

// noRoom is what everybody is told who is no member of a room, whether there is one or not.
func noRoom() error { return problem(http.StatusNotFound, "there is no such room") }

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
