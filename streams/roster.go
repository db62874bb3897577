package streams

import (
	"context"
	"maps"
	"slices"
	"time"

	"sluice/store"
)

const (
	lookAfter    = 30 * time.Millisecond  // what is told meanwhile is looked at together
	lookPause    = 500 * time.Millisecond // after a look that failed
	lookedByName = 5000                   // users of an org; of more, everybody is looked at
	roomsOnce    = 50                     // looked at as a whole by one statement
	signalsOnce  = 100                    // that the hub is given at a time, for nobody is served meanwhile
)

// look is what is to be looked at of an org. The lock of Presence guards it until it is taken.
type look struct {
	everybody bool            // in all rooms here
	users     map[string]bool // in all rooms here
	rooms     map[string]bool // everybody of these
	turned    map[seat]bool   // whose membership has changed; true: has begun
}

// seat is a user's place in a room.
type seat struct{ room, user string }

// Present is told by the notifier that who of these users is there may have changed; where none is named, of all of the org.
func (p *Presence) Present(org string, users []string) {
	p.ask(org, func(l *look) {
		for _, user := range users {
			l.users[user] = true
		}
		l.everybody = l.everybody || len(users) == 0 || len(l.users) > lookedByName
	})
}

// Missed has everything looked at again.
func (p *Presence) Missed() {
	for _, org := range p.hub.ChatOrgs() {
		p.Present(org, nil)
	}
}

// Joined is called by the hub: who has become a member is told who is there, and the others are told of them.
func (p *Presence) Joined(org, room, user string) { p.turned(org, seat{room, user}, true) }

// Left is called by the hub: who is no member any more is not there for the others.
func (p *Presence) Left(org, room, user string) { p.turned(org, seat{room, user}, false) }

func (p *Presence) turned(org string, at seat, begun bool) {
	p.ask(org, func(l *look) {
		l.users[at.user] = true
		l.turned[at] = begun
	})
}

// ask adds to what is to be looked at.
func (p *Presence) ask(org string, add func(*look)) {
	p.mu.Lock()
	p.addLook(org, add)
	p.mu.Unlock()
}

// addLook is ask for a caller that holds mu.
func (p *Presence) addLook(org string, add func(*look)) {
	l := p.looks[org]
	if l == nil {
		l = &look{users: map[string]bool{}, rooms: map[string]bool{}, turned: map[seat]bool{}}
		p.looks[org] = l
	}
	add(l)
	wake(p.looking)
}

// Roster is what was told here last of a room; of one that is not known nothing, until it was looked at.
func (p *Presence) Roster(org, room string) *Roster {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, found := p.rosters[org][room]
	if !found {
		p.addLook(org, func(l *look) { l.rooms[room] = true })
		return new(Roster)
	}
	if known.told == nil {
		known.told = &Roster{signals: known.signals(room)}
	}
	return known.told
}

func (r *roster) signals(room string) (list []Signal) {
	for _, one := range r.there {
		list = append(list, presenceSignal(room, one))
	}
	return list
}

// set notes how a member is, and says how they were.
func (r *roster) set(one store.RoomUser) (was store.Status) {
	before, is := r.there[one.User]
	if !is {
		before.Status = store.StatusOffline
	}
	if one.Status == store.StatusOffline {
		r.drop(one.User)
	} else if before != one {
		r.there[one.User], r.told = one, nil
	}
	return before.Status
}

func (r *roster) drop(user string) {
	if _, is := r.there[user]; is {
		delete(r.there, user)
		r.told = nil
	}
}

func presenceSignal(room string, one store.RoomUser) Signal {
	return Signal{Kind: SignalPresence, Room: room, User: one.User, Name: one.Name, Status: one.Status, LastSeen: one.LastSeen}
}

// look finds out what was asked, an org after the other, until ctx ends.
func (p *Presence) look(ctx context.Context) {
	pause := lookAfter
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.looking:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		p.mu.Lock()
		looks := p.looks
		p.looks = map[string]*look{}
		p.mu.Unlock()
		pause = lookAfter
		for org, l := range looks {
			if err := p.lookAt(ctx, org, l); err != nil {
				p.failed(ctx, "who is there cannot be found out", err)
				p.ask(org, l.addTo)
				pause = lookPause
			}
		}
	}
}

// addTo asks once more for what could not be found out.
func (l *look) addTo(later *look) {
	later.everybody = later.everybody || l.everybody
	maps.Copy(later.users, l.users)
	maps.Copy(later.rooms, l.rooms)
	for at, begun := range l.turned {
		if _, newer := later.turned[at]; !newer {
			later.turned[at] = begun
		}
	}
}

// lookAt compares an org's rooms that are listened to here with what was told of them, and tells the difference.
func (p *Presence) lookAt(ctx context.Context, org string, l *look) error {
	whole, others := p.divide(org, l)
	told := map[seat]bool{} // who is to be told of everybody in the room
	for at, begun := range l.turned {
		if begun && slices.ContainsFunc(p.hub.Carries(org, at.user), func(c Carriage) bool { return c.Room == "" || c.Room == at.room }) {
			told[at] = true
		}
	}
	for rooms := range slices.Chunk(whole, roomsOnce) {
		if err := p.find(ctx, org, l, rooms, true); err != nil {
			return err
		}
	}
	if len(others) > 0 && len(l.users) > 0 {
		if err := p.find(ctx, org, l, others, false); err != nil {
			return err
		}
	}
	p.signal(org, p.toldOf(org, told))
	return nil
}

// find looks some rooms up, for everybody or for the users of a look, and tells what is new.
func (p *Presence) find(ctx context.Context, org string, l *look, rooms []string, whole bool) error {
	users := slices.Collect(maps.Keys(l.users))
	if whole {
		users = p.thereIn(org, rooms)
	}
	bounded, cancel := context.WithTimeout(ctx, presenceMost)
	defer cancel()
	found, err := p.log.Attendance(bounded, org, rooms, users, whole)
	if err != nil {
		return err
	}
	p.signal(org, p.compare(org, l, rooms, whole, found))
	return nil
}

func (p *Presence) signal(org string, signals []Signal) {
	for some := range slices.Chunk(signals, signalsOnce) {
		p.hub.Signal(org, some)
	}
}

// divide says which rooms have to be looked at as a whole and in which others users have, and forgets those that nobody here
// listens to.
func (p *Presence) divide(org string, l *look) (whole, others []string) {
	here := map[string]bool{}
	for _, room := range p.hub.RoomsHere(org) {
		here[room] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.rosters[org]
	maps.DeleteFunc(known, func(room string, _ *roster) bool { return !here[room] })
	if len(known) == 0 {
		delete(p.rosters, org)
	}
	for room := range here {
		if known[room] == nil || l.everybody || l.rooms[room] {
			whole = append(whole, room)
		} else {
			others = append(others, room)
		}
	}
	return whole, others
}

// thereIn lists who was said to be in some rooms, and may have gone.
func (p *Presence) thereIn(org string, rooms []string) []string {
	users := map[string]bool{}
	for _, room := range rooms {
		if known := p.rosters[org][room]; known != nil {
			for user := range known.there {
				users[user] = true
			}
		}
	}
	return slices.Collect(maps.Keys(users))
}

// compare brings the rosters of rooms in line with what was found of them, and gives what is to be told of that.
func (p *Presence) compare(org string, l *look, rooms []string, whole bool, found []store.Attendee) (signals []Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.rosters[org]
	if known == nil {
		known = map[string]*roster{}
		p.rosters[org] = known
	}
	members := map[seat]bool{}
	for _, one := range found {
		members[seat{one.Room, one.User}] = true
	}
	looked := map[string]bool{}
	for _, room := range rooms {
		if looked[room] = true; !whole {
			continue
		}
		if known[room] == nil {
			known[room] = &roster{there: map[string]store.RoomUser{}}
		}
		for user := range known[room].there {
			if !members[seat{room, user}] {
				known[room].drop(user)
			}
		}
	}
	for at := range l.turned {
		if looked[at.room] && !members[at] {
			known[at.room].drop(at.user)
		}
	}
	for _, one := range found {
		was := known[one.Room].set(one.RoomUser)
		if was != one.Status || l.turned[seat{one.Room, one.User}] {
			signals = append(signals, presenceSignal(one.Room, one.RoomUser))
		}
	}
	return signals
}

// toldOf gives those their rosters who are to be told of everybody.
func (p *Presence) toldOf(org string, told map[seat]bool) (signals []Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := range told {
		known := p.rosters[org][at.room]
		if known == nil {
			continue
		}
		for _, signal := range known.signals(at.room) {
			signal.To = at.user
			signals = append(signals, signal)
		}
	}
	return signals
}
