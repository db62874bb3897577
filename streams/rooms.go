package streams

import (
	"context"
	"log/slog"
	"strings"
	"time"
	"unicode"

	lru "github.com/hashicorp/golang-lru/v2"

	"sluice/store"
)

const (
	readsEvery = 250 * time.Millisecond // between two looks at the least
	readsLook  = 15 * time.Second       // after which another instance's are told of, if it has died
	namesKnown = 10_000                 // users whose names are remembered
	namesFor   = 10 * time.Second       // that one is: another instance may have been told another since
	nameRunes  = 128                    // characters of a name
)

// RoomLog is the part of the store that keeps rooms; its contract is that of store.Store.
type RoomLog interface {
	NewSendMessage(by store.Actor, room, clientID, text string) *store.SendMessage
	Rooms(ctx context.Context, by store.Actor) ([]store.Room, error)
	Room(ctx context.Context, by store.Actor, id string) (store.Room, error)
	History(ctx context.Context, by store.Actor, room string, of store.HistoryRange) (store.History, error)
	MarkRead(ctx context.Context, user store.UserKey, room string, seq int64) (bool, error)
	RoomUsers(ctx context.Context, by store.Actor, room string) ([]store.RoomUser, error)
	RoomStats(ctx context.Context, by store.Actor, room string) (store.RoomStats, error)
	StrangeRoom(ctx context.Context, org, user string, rooms []string) (string, error)
	KeepName(ctx context.Context, user store.UserKey, name string) error
}

// Rooms is what users do in rooms: one function for each operation, whichever door it came through. Who is no member is told
// store.ErrNoRoom by all of them.
type Rooms struct {
	*RoomSignals
	log      RoomLog
	appender Changer
	to       *slog.Logger
	names    *lru.Cache[store.UserKey, knownName]
	marked   chan struct{} // of one place: read marks have moved
}

// knownName is a name that was kept here.
type knownName struct {
	name  string
	until time.Time // that nobody needs to look again
}

// NewRooms makes them. Run runs what they need.
func NewRooms(log RoomLog, appender Changer, signals *RoomSignals, to *slog.Logger) *Rooms {
	names, err := lru.New[store.UserKey, knownName](namesKnown)
	if err != nil {
		panic(err) // the size is not positive
	}
	return &Rooms{RoomSignals: signals, log: log, appender: appender, to: to, names: names, marked: make(chan struct{}, 1)}
}

// Greet keeps what a user is called, where the token says it.
func (r *Rooms) Greet(ctx context.Context, by store.Actor) error {
	user, name := store.UserKey{Org: by.Org, ID: by.User}, NameOf(by.Name)
	if known, _ := r.names.Get(user); name == "" || known.name == name && time.Now().Before(known.until) {
		return nil
	}
	if err := r.log.KeepName(ctx, user, name); err != nil {
		return err
	}
	r.names.Add(user, knownName{name, time.Now().Add(namesFor)})
	return nil
}

// NameOf is the name of a user as it is kept and shown: in one line, of a length that a line has.
func NameOf(text string) string {
	name := strings.TrimSpace(strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return -1
		}
		return c
	}, strings.ToValidUTF8(text, "")))
	if runes := []rune(name); len(runes) > nameRunes {
		return strings.TrimSpace(string(runes[:nameRunes]))
	}
	return name
}

// Create makes a room.
func (r *Rooms) Create(ctx context.Context, by store.Actor, n store.NewRoom) (store.Room, error) {
	change := store.NewCreateRoom(by, n)
	if _, err := r.appender.Change(ctx, change); err != nil {
		return store.Room{}, err
	}
	return change.Room, nil
}

// List gives the user's rooms.
func (r *Rooms) List(ctx context.Context, by store.Actor) ([]store.Room, error) {
	return r.log.Rooms(ctx, by)
}

// Find gives one of them.
func (r *Rooms) Find(ctx context.Context, by store.Actor, room string) (store.Room, error) {
	return r.log.Room(ctx, by, room)
}

// Update changes a room.
func (r *Rooms) Update(ctx context.Context, by store.Actor, room string, u store.RoomUpdate) (store.Room, error) {
	change := store.NewUpdateRoom(by, room, u)
	if _, err := r.appender.Change(ctx, change); err != nil {
		return store.Room{}, err
	}
	return change.Room, nil
}

// Delete ends a room.
func (r *Rooms) Delete(ctx context.Context, by store.Actor, room string) error {
	_, err := r.appender.Change(ctx, store.NewDeleteRoom(by, room))
	return err
}

// Admit makes a user a member.
func (r *Rooms) Admit(ctx context.Context, by store.Actor, room, user string) error {
	_, err := r.appender.Change(ctx, store.NewAddMember(by, room, user))
	return err
}

// Remove ends a membership.
func (r *Rooms) Remove(ctx context.Context, by store.Actor, room, user string) error {
	_, err := r.appender.Change(ctx, store.NewRemoveMember(by, room, user))
	return err
}

// Send says something in a room, once for a client id.
func (r *Rooms) Send(ctx context.Context, by store.Actor, room, clientID, text string) (store.Message, error) {
	by.Name = NameOf(by.Name)
	change := r.log.NewSendMessage(by, room, clientID, text)
	if _, err := r.appender.Change(ctx, change); err != nil {
		return store.Message{}, err
	}
	return change.Message, nil
}

// Edit changes the text of a message of one's own.
func (r *Rooms) Edit(ctx context.Context, by store.Actor, room string, seq int64, text string) (store.Message, error) {
	change := store.NewEditMessage(by, room, seq, text)
	if _, err := r.appender.Change(ctx, change); err != nil {
		return store.Message{}, err
	}
	return change.Message, nil
}

// Erase takes the text of a message away.
func (r *Rooms) Erase(ctx context.Context, by store.Actor, room string, seq int64) error {
	_, err := r.appender.Change(ctx, store.NewEraseMessage(by, room, seq))
	return err
}

// History gives a part of what was said.
func (r *Rooms) History(ctx context.Context, by store.Actor, room string, of store.HistoryRange) (store.History, error) {
	return r.log.History(ctx, by, room, of)
}

// Read moves the user's read mark up. The others are told soon (Run).
func (r *Rooms) Read(ctx context.Context, by store.Actor, room string, seq int64) error {
	moved, err := r.log.MarkRead(ctx, store.UserKey{Org: by.Org, ID: by.User}, room, seq)
	if moved {
		wake(r.marked)
	}
	return err
}

// Users gives the members of a room, and who of them is there.
func (r *Rooms) Users(ctx context.Context, by store.Actor, room string) ([]store.RoomUser, error) {
	return r.log.RoomUsers(ctx, by, room)
}

// Stats counts.
func (r *Rooms) Stats(ctx context.Context, by store.Actor, room string) (store.RoomStats, error) {
	return r.log.RoomStats(ctx, by, room)
}

// Strange names one of the rooms that was never the user's, or is not there; "": there is none.
func (r *Rooms) Strange(ctx context.Context, org, user string, rooms []string) (string, error) {
	return r.log.StrangeRoom(ctx, org, user, rooms)
}

// Run tells of read marks until ctx ends: at once of the first after a while of quiet, and now and then of those that an
// instance has left behind which has died.
func (r *Rooms) Run(ctx context.Context) {
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.marked:
		case <-time.After(readsLook):
		}
		for left := true; left; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(looked.Add(readsEvery))):
			}
			looked = time.Now()
			change := new(store.TellReads)
			_, err := r.appender.Change(ctx, change)
			if err != nil && ctx.Err() == nil {
				r.to.Debug("read marks cannot be told of", "err", err)
			}
			left = err != nil || change.Left
		}
	}
}
