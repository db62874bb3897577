package streams

import (
	"iter"
	"slices"
	"time"

	"sluice/store"
)

// Attendance keeps track of who is there, over all instances. The hub calls it under its tails' locks: nothing of it blocks, or
// calls the hub back before it returns.
type Attendance interface {
	// Changed says that what Hub.Carries tells of a user may have changed.
	Changed(org, user string)

	// Joined says that the log has a user become a member of a room.
	Joined(org, room, user string)

	// Left says that the log has a user be no member of a room any more.
	Left(org, room, user string)

	// Roster is what is known now of a room's members who are there, for a stream that begins. Of a room that it does not know
	// yet it finds out, and signals that.
	Roster(org, room string) *Roster
}

// nobody is the attendance of a hub that has none.
type nobody struct{}

func (nobody) Changed(string, string)        {}
func (nobody) Joined(string, string, string) {}
func (nobody) Left(string, string, string)   {}
func (nobody) Roster(string, string) *Roster { return new(Roster) }

// Attend sets who keeps track of who is there. It is called before the first stream.
func (h *Hub) Attend(a Attendance) { h.attendance = a }

// SignalKind is the name of a frame about a room that is no event.
type SignalKind string

// The kinds of docs/protocol.md.
const (
	SignalTyping   SignalKind = "typing"
	SignalPresence SignalKind = "presence"
)

// Signal is what the members of a room are told of one of them. It is in no log and may be lost.
type Signal struct {
	Kind             SignalKind
	Room, User, Name string
	To               string       // whose streams alone are given it; "": those of all members
	Status           store.Status // of presence
	LastSeen         time.Time    // of presence; zero: never
}

// Roster is who is there of a room's members, and does not change.
type Roster struct {
	signals []Signal
	framed  [encoders][]byte // guarded by the lock of the org's tail: made once for all who begin, since all may at one moment
}

func (r *Roster) append(dst []byte, e Encoder) []byte {
	framed := &r.framed[e.Index()]
	if *framed == nil {
		for _, one := range r.signals {
			*framed = e.Signal(*framed, one)
		}
	}
	return append(dst, *framed...)
}

// Carriage is what this process carries to a user of chat.
type Carriage struct {
	Room    string // "": all of the user's
	Streams int    // open ones
	Polled  bool   // a poll waits, or did a moment ago
}

// Carries tells what this process carries to a user, by room.
func (h *Hub) Carries(org, user string) []Carriage {
	t := h.known(org)
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.members.byUser[user]
	if m == nil || t.swept {
		return nil
	}
	at := map[string]*Carriage{}
	of := func(room string) *Carriage {
		if at[room] == nil {
			at[room] = &Carriage{Room: room}
		}
		return at[room]
	}
	for _, s := range m.subscribers {
		for _, room := range carried(&s.group.filter) {
			if s.poll != nil {
				of(room).Polled = true
			} else {
				of(room).Streams++
			}
		}
	}
	for room := range m.polled {
		of(room).Polled = true
	}
	list := make([]Carriage, 0, len(at))
	for _, one := range at {
		list = append(list, *one)
	}
	return list
}

// ChatOrgs lists the orgs with open streams that carry chat.
func (h *Hub) ChatOrgs() (orgs []string) {
	for _, t := range h.all() {
		t.mu.Lock()
		for _, m := range t.members.byUser {
			if m.streams() > 0 {
				orgs = append(orgs, t.org)
				break
			}
		}
		t.mu.Unlock()
	}
	return orgs
}

// streams counts the subscribers that are no polls.
func (m *member) streams() (count int) {
	for _, s := range m.subscribers {
		if s.poll == nil {
			count++
		}
	}
	return count
}

// RoomsHere lists the rooms that open streams here carry to members of theirs.
func (h *Hub) RoomsHere(org string) (rooms []string) {
	t := h.known(org)
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for room := range t.members.byRoom {
		if t.listens(room) {
			rooms = append(rooms, room)
		}
	}
	return rooms
}

// listens says whether a stream here carries a room to a member of it. The caller holds mu.
func (t *tail) listens(room string) bool {
	for range t.listeners(room) {
		return true
	}
	return false
}

// listeners are the streams here that carry a room to a member of it. The caller holds mu.
func (t *tail) listeners(room string) iter.Seq[*Subscriber] {
	return func(yield func(*Subscriber) bool) {
		for m := range t.members.byRoom[room] {
			if len(m.subscribers) == 0 || !m.is(room) {
				continue
			}
			for _, s := range m.subscribers {
				if s.poll == nil && s.carries(room) && !yield(s) {
					return
				}
			}
		}
	}
}

// Signal gives members here the frames of signals: those of a room in one piece, made once for all who read the same encoding.
// A stream that takes nothing just now misses them.
func (h *Hub) Signal(org string, signals []Signal) {
	t := h.known(org)
	if t == nil {
		return
	}
	byRoom := map[[2]string][]Signal{}
	for _, one := range signals {
		byRoom[[2]string{one.Room, one.To}] = append(byRoom[[2]string{one.Room, one.To}], one)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for at, of := range byRoom {
		t.signal(at[0], at[1], of)
	}
}

// signal gives the streams of a room, or those of one user there, what is signalled of it. The caller holds mu.
func (t *tail) signal(room, to string, signals []Signal) {
	typing := map[string]bool{}
	for _, one := range signals {
		if one.Kind == SignalTyping {
			typing[one.User] = true
		}
	}
	var framed [encoders]Payload
	for s := range t.listeners(room) {
		if s.state == arriving || s.state == blocked || to != "" && s.reader != to {
			continue
		}
		if typing[s.reader] { // they know, and are told of the others alone
			rest := slices.DeleteFunc(slices.Clone(signals), func(one Signal) bool { return one.Kind == SignalTyping && one.User == s.reader })
			if len(rest) > 0 {
				t.control(s, s.signals(rest))
			}
			continue
		}
		payload := &framed[s.group.encoder.Index()]
		if *payload == nil {
			*payload = s.signals(signals)
		}
		t.control(s, *payload)
	}
}

// signals frames signals for those who read what the subscriber does.
func (s *Subscriber) signals(list []Signal) Payload {
	return s.encode(func(e Encoder, dst []byte) []byte {
		for _, one := range list {
			dst = e.Signal(dst, one)
		}
		return dst
	})
}

// roster appends who is there in the rooms that a stream carries. The caller holds mu.
func (t *tail) roster(dst []byte, s *Subscriber, e Encoder) []byte {
	if s.member == nil || s.poll != nil {
		return dst
	}
	for room := range s.member.rooms {
		if !s.carries(room) || !s.member.is(room) {
			continue
		}
		dst = t.hub.attendance.Roster(t.org, room).append(dst, e)
	}
	return dst
}
