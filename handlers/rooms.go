package handlers

import (
	"context"

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

	// Strange names one of the rooms that was never the user's, or is not there; "": there is none.
	Strange(ctx context.Context, org, user string, rooms []string) (string, error)
}
