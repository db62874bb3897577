package streams

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/store"
)

const (
	presenceEvery = 250 * time.Millisecond // between two writes; the first after a while of quiet is made at once
	livingEvery   = 2 * time.Second        // between two looks at which instances live
	lookAgain     = 15                     // of these looks, after which everything is looked at again
	presenceMost  = 10 * time.Second       // for one statement or transaction
	presenceStop  = 2 * time.Second        // for the last one
)

// Attending is the part of the store that keeps who is there; its contract is that of store.Store.
type Attending interface {
	KeepPresence(ctx context.Context, instance string, change store.PresenceChange) error
	PresenceOf(ctx context.Context, instance string) (alive []string, rows int, err error)
	PresentUsers(ctx context.Context, instance string) ([]store.UserKey, error)
	ForgetPresence(ctx context.Context) error
	Attendance(ctx context.Context, org string, rooms, users []string, everybody bool) ([]store.Attendee, error)
}

// Presence keeps track of who is there, over all instances: it writes down to whom this one carries rooms, and tells the
// streams here what all have written. It is the hub's Attendance.
type Presence struct {
	log      Attending
	hub      *Hub
	instance string
	to       *slog.Logger

	// Of the goroutine that writes alone.
	kept  map[store.UserKey][]Carriage // what the table has for this instance
	alive []string                     // the instances that were seen to live
	seen  int                          // looks at that

	writing, looking chan struct{} // of one place: there is something to be written, to be looked at

	mu      sync.Mutex                    // never held while the hub is called
	changed map[store.UserKey]bool        // guarded by mu: whose carriage may have changed; true: others are told in any case
	looks   map[string]*look              // guarded by mu; by org
	rosters map[string]map[string]*roster // guarded by mu, and changed by the goroutine that looks alone; by org and room
}

// roster is who is there of the members of a room, as it was told here last. Those who are offline are not in it.
type roster struct {
	there map[string]store.RoomUser
	told  *Roster // the same, for streams that begin; nil: it was not asked for since it has changed
}

// doubt stands for rows of which it is not known whether they were written: nothing is equal to it.
var doubt = []Carriage{{Room: "\x00"}}

// NewPresence makes the attendance of a hub that has no streams yet, for an instance that Sharing keeps alive. Run runs it.
func NewPresence(log Attending, hub *Hub, instance string, to *slog.Logger) *Presence {
	p := &Presence{
		log: log, hub: hub, instance: instance, to: to, kept: map[store.UserKey][]Carriage{},
		writing: make(chan struct{}, 1), looking: make(chan struct{}, 1),
		changed: map[store.UserKey]bool{}, looks: map[string]*look{}, rosters: map[string]map[string]*roster{},
	}
	hub.Attend(p)
	return p
}

// Run writes and looks until ctx ends. Then it takes back that anybody is here.
func (p *Presence) Run(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() { p.write(ctx) })
	group.Go(func() { p.look(ctx) })
	group.Wait()
	stopping, cancel := context.WithTimeout(context.Background(), presenceStop)
	defer cancel()
	users := slices.Collect(maps.Keys(p.kept))
	if err := p.log.KeepPresence(stopping, p.instance, store.PresenceChange{Users: users, Gone: users, Told: users}); err != nil {
		p.to.Debug("that nobody is here any more is found out by the end of the lease", "err", err)
	}
}

// Changed is called by the hub where what it carries to a user may have changed.
func (p *Presence) Changed(org, user string) { p.note(store.UserKey{Org: org, ID: user}, false) }

// StatusChanged says that a user has chosen another status: all instances are told.
func (p *Presence) StatusChanged(user store.UserKey) { p.note(user, true) }

func (p *Presence) note(user store.UserKey, told bool) {
	p.mu.Lock()
	p.changed[user] = p.changed[user] || told
	p.mu.Unlock()
	wake(p.writing)
}

// wake says over a channel of one place that there is something.
func wake(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// write keeps the table in line with what is carried here.
func (p *Presence) write(ctx context.Context) {
	p.checkLiving(ctx)
	ticker := time.NewTicker(livingEvery)
	defer ticker.Stop()
	writing := p.writing
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.checkLiving(ctx)
		case <-rest.C:
			writing = p.writing
		case <-writing:
			p.flush(ctx)
			writing = nil
			rest.Reset(presenceEvery)
		}
	}
}

// flush writes what has changed, and says so where somebody has come or gone.
func (p *Presence) flush(ctx context.Context) {
	p.mu.Lock()
	changed := p.changed
	p.changed = map[store.UserKey]bool{}
	p.mu.Unlock()
	var change store.PresenceChange
	carried := map[store.UserKey][]Carriage{}
	for user, told := range changed {
		now, before := p.hub.Carries(user.Org, user.ID), p.kept[user]
		slices.SortFunc(now, func(a, b Carriage) int { return strings.Compare(a.Room, b.Room) })
		if told || !slices.EqualFunc(now, before, func(a, b Carriage) bool { return a.Room == b.Room }) {
			change.Told = append(change.Told, user)
		}
		if slices.Equal(now, before) {
			continue
		}
		carried[user] = now
		change.Users = append(change.Users, user)
		if len(now) == 0 {
			change.Gone = append(change.Gone, user)
		}
		for _, one := range now {
			change.Carried = append(change.Carried, store.Carried{UserKey: user, Room: one.Room, Streams: one.Streams, Polled: one.Polled})
		}
	}
	if len(change.Users)+len(change.Told) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, presenceMost)
	defer cancel()
	if err := p.log.KeepPresence(bounded, p.instance, change); err != nil {
		p.failed(ctx, "who is there cannot be written down", err)
		for user := range carried {
			p.kept[user] = doubt
			p.note(user, true)
		}
		for _, user := range change.Told {
			p.note(user, true)
		}
		return
	}
	for user, now := range carried {
		if p.kept[user] = now; len(now) == 0 {
			delete(p.kept, user)
		}
	}
}

// checkLiving looks whether instances have come or gone: what they carry counts, or does not any more. Where the table has
// not as many rows as this one has written, it was taken for dead, and all are written again.
func (p *Presence) checkLiving(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, presenceMost)
	defer cancel()
	alive, rows, err := p.log.PresenceOf(bounded, p.instance)
	if err == nil && !slices.Equal(alive, p.alive) {
		err = p.log.ForgetPresence(bounded)
	}
	for _, carried := range p.kept {
		rows -= len(carried)
	}
	var written []store.UserKey
	if err == nil && rows != 0 {
		written, err = p.log.PresentUsers(bounded, p.instance)
	}
	if err != nil {
		p.failed(ctx, "which instances live cannot be found out", err)
		return
	}
	p.seen++
	if !slices.Equal(alive, p.alive) || p.seen%lookAgain == 0 {
		p.alive = alive
		p.Missed()
	}
	if rows == 0 {
		return
	}
	for _, user := range slices.AppendSeq(written, maps.Keys(p.kept)) {
		p.kept[user] = doubt
		p.note(user, true)
	}
}

func (p *Presence) failed(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		p.to.Debug(what, "err", err)
	}
}
