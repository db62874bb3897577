package streams

import (
	"cmp"
	"context"

	"sluice/store"
)

// Signalling is the part of the store that signals of members need; its contract is that of store.Store.
type Signalling interface {
	MemberName(ctx context.Context, user store.UserKey, room string) (string, error)
	SetStatus(ctx context.Context, user store.UserKey, room string, status store.Status) (changed bool, err error)
}

// RoomSignals is what members do in rooms that is in no log.
type RoomSignals struct {
	log      Signalling
	presence *Presence
	typing   *Typing
}

// NewRoomSignals makes them.
func NewRoomSignals(log Signalling, presence *Presence, typing *Typing) *RoomSignals {
	return &RoomSignals{log: log, presence: presence, typing: typing}
}

// Typing tells the other members of a room that somebody types: once in two seconds, whatever more they say. ErrNoRoom.
func (r *RoomSignals) Typing(ctx context.Context, by store.Actor, room string) error {
	name, err := r.log.MemberName(ctx, store.UserKey{Org: by.Org, ID: by.User}, room)
	if err != nil {
		return err
	}
	r.typing.Tell(store.Typing{Org: by.Org, Room: room, User: by.User, Name: cmp.Or(NameOf(by.Name), name)})
	return nil
}

// SetStatus has a member be shown as online, away or offline in a room, as long as they are there. ErrNoRoom.
func (r *RoomSignals) SetStatus(ctx context.Context, by store.Actor, room string, status store.Status) error {
	user := store.UserKey{Org: by.Org, ID: by.User}
	changed, err := r.log.SetStatus(ctx, user, room, status)
	if changed {
		r.presence.StatusChanged(user)
	}
	return err
}
