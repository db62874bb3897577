package streams

import (
	"maps"
	"slices"
	"sort"
	"time"

	"sluice/store"
)

const (
	polledFor = 30 * time.Second // that a user is there after a poll
	knownFor  = 30 * time.Second // that the memberships of a user without streams are kept up to date
)

// member is a user here who has asked for chat, with all that the log says of their membership. It is absolute, so it holds for
// events of any age. The tail's lock guards it.
type member struct {
	user        string
	loaded      bool                  // rooms is what the store says
	rooms       map[string][]interval // by room, in the order of the log
	subscribers []*Subscriber         // whose filters have the service
	polled      map[string]time.Time  // by room, "" for all of them: when the newest poll was over
	idle        time.Time             // since when there are no subscribers
}

// interval is a part of the log in which a user was a member of a room. Both ends belong to it; to is 0 where it has none. What
// was said in it are the room's messages after saidFrom, up to saidTo.
type interval struct{ from, to, saidFrom, saidTo int64 }

// at finds the interval of a room that is the last one to begin at a position or before it, and says where that is in the list;
// -1: there is none. It does not go through all: who owns a room can add and remove a user as often as they like.
func (m *member) at(room string, seq int64) (i int, one *interval) {
	list := m.rooms[room]
	i = sort.Search(len(list), func(i int) bool { return list[i].from > seq }) - 1
	if i < 0 {
		return i, nil
	}
	return i, &list[i]
}

// saw says whether the user was a member of a room at a position.
func (m *member) saw(room string, seq int64) bool {
	_, one := m.at(room, seq)
	return one != nil && (one.to == 0 || seq <= one.to)
}

// reads says whether the user may know a message: one from before they first came, or said while they were a member.
func (m *member) reads(room string, message int64) bool {
	list := m.rooms[room]
	i := sort.Search(len(list), func(i int) bool { return list[i].saidFrom >= message }) - 1
	if i < 0 {
		return len(list) > 0
	}
	return list[i].to == 0 || message <= list[i].saidTo
}

// is says whether the user is a member of a room where the log was read to.
func (m *member) is(room string) bool { return m.saw(room, 1<<63-1) }

// carries says whether a stream or poll carries a room's events to its user, and signals of it.
func (s *Subscriber) carries(room string) bool {
	rooms := s.group.filter.Rooms
	if rooms == nil {
		return true
	}
	_, found := slices.BinarySearch(rooms, room)
	return found
}

// members are the users of an org who have asked for chat here. The tail's lock guards them.
type members struct {
	byUser map[string]*member
	byRoom map[string]map[*member]bool // who is, or was, a member of it
}

// of is the member that a user is here, made where it is not there.
func (m *members) of(user string) *member {
	one := m.byUser[user]
	if one == nil {
		one = &member{user: user, idle: time.Now()}
		if m.byUser == nil {
			m.byUser, m.byRoom = map[string]*member{}, map[string]map[*member]bool{}
		}
		m.byUser[user] = one
	}
	return one
}

// add notes an interval, once.
func (m *members) add(one *member, room string, at interval) {
	before, known := one.at(room, at.from)
	if known != nil && known.from == at.from {
		return
	}
	if one.rooms == nil {
		one.rooms = map[string][]interval{}
	}
	one.rooms[room] = slices.Insert(one.rooms[room], before+1, at)
	if m.byRoom[room] == nil {
		m.byRoom[room] = map[*member]bool{}
	}
	m.byRoom[room][one] = true
}

// end closes the interval that is open at a position, where some messages were said.
func (m *member) end(room string, seq, said int64) {
	if _, one := m.at(room, seq); one != nil && one.to == 0 {
		one.to, one.saidTo = seq, said
	}
}

// unload drops what is known of a member.
func (m *members) unload(one *member) {
	for room := range one.rooms {
		delete(m.byRoom[room], one)
		if len(m.byRoom[room]) == 0 {
			delete(m.byRoom, room)
		}
	}
	one.rooms, one.loaded = nil, false
}

// wantsChat says whether a filter has the service chat.
func (h *Hub) wantsChat(filter *Filter) bool { return filter.Services&h.chat != 0 }

// enter counts a subscriber among its user's, where its filter has the service chat. The caller holds mu.
func (t *tail) enter(s *Subscriber) {
	if !t.hub.wantsChat(&s.group.filter) {
		return
	}
	s.member = t.members.of(s.reader)
	s.member.subscribers = append(s.member.subscribers, s)
	t.hub.attendance.Changed(t.org, s.reader)
}

// exit takes it out again. Whoever polls is there for a while longer.
func (t *tail) exit(s *Subscriber) {
	m := s.member
	if m == nil {
		return
	}
	s.member = nil
	m.subscribers = slices.DeleteFunc(m.subscribers, func(one *Subscriber) bool { return one == s })
	m.idle = time.Now()
	if s.poll != nil {
		if m.polled == nil {
			m.polled = map[string]time.Time{}
		}
		for _, room := range carried(&s.group.filter) {
			m.polled[room] = m.idle
		}
	}
	t.hub.attendance.Changed(t.org, m.user)
}

// carried lists the rooms that a filter names; "" stands for all of a user's.
func carried(filter *Filter) []string {
	if filter.Rooms == nil {
		return []string{""}
	}
	return filter.Rooms
}

// stranger says whether a subscriber cannot be served before the memberships of its user are known.
func (t *tail) stranger(s *Subscriber) bool {
	if s.change != nil && t.hub.wantsChat(&s.change.Filter) {
		return !t.members.of(s.reader).loaded
	}
	return s.member != nil && !s.member.loaded
}

// strangers are the users among arrivals whose memberships have to be read. The caller holds mu.
func (t *tail) strangers(arrivals []*Subscriber) []string {
	users := map[string]bool{}
	for _, s := range arrivals {
		if t.stranger(s) {
			users[s.reader] = true
		}
	}
	return slices.Collect(maps.Keys(users))
}

// meet takes what the store says of users. It was asked after the page that is applied next: it may tell of what that page
// does not reach, but never of less. The caller holds mu.
func (t *tail) meet(users []string, known []store.Membership) {
	for _, user := range users {
		t.members.of(user).loaded = true
	}
	for _, one := range known {
		t.members.add(t.members.of(one.User), one.Room, interval{one.From, one.To, one.SaidFrom, one.SaidTo})
	}
}

// follow takes from events who becomes a member of a room and who is none any more, before anybody is given them.
func (t *tail) follow(entries []*entry) {
	if len(t.members.byUser) == 0 {
		return
	}
	for _, e := range entries {
		if e.service != t.hub.chat {
			continue
		}
		room, seq := e.event.EntityID, e.event.Seq
		switch e.event.Type {
		case store.MemberAdded:
			user, said := e.event.Concerns()
			if m := t.members.byUser[user]; m != nil && m.loaded {
				t.members.add(m, room, interval{from: seq, saidFrom: said})
			}
			t.hub.attendance.Joined(t.org, room, user)
		case store.MemberRemoved:
			user, said := e.event.Concerns()
			if m := t.members.byUser[user]; m != nil {
				m.end(room, seq, said)
			}
			t.hub.attendance.Left(t.org, room, user)
		case store.RoomDeleted:
			_, said := e.event.Concerns()
			for m := range t.members.byRoom[room] {
				m.end(room, seq, said)
			}
		}
	}
}

// addressed calls visit for everybody live whom a room's event is for.
func (t *tail) addressed(e *entry, visit func(*Subscriber)) {
	for m := range t.members.byRoom[e.event.EntityID] {
		if !m.saw(e.event.EntityID, e.event.Seq) {
			continue
		}
		for _, s := range m.subscribers {
			if s.state == live && s.admits(e) {
				visit(s)
			}
		}
	}
}

// forgetMembers drops what is known of all: it is read again. The caller holds mu.
func (t *tail) forgetMembers() {
	for _, m := range t.members.byUser {
		t.members.unload(m)
	}
}

// tickMembers looks after what time does to members: whoever has polled is there for a while, and whoever has left is known
// for a while, for many come back at once. The caller holds mu.
func (t *tail) tickMembers(now time.Time) {
	for user, m := range t.members.byUser {
		for room, at := range m.polled {
			if now.Sub(at) > polledFor {
				delete(m.polled, room)
				t.hub.attendance.Changed(t.org, user)
			}
		}
		if len(m.subscribers) == 0 && len(m.polled) == 0 && now.Sub(m.idle) > knownFor {
			t.members.unload(m)
			delete(t.members.byUser, user)
		}
	}
}
