package main

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

// sees waits until the user is told that another one is so, after the signals that it had seen.
func (c *chatUser) sees(seen *int, user, status string) chatSignal {
	c.t.Helper()
	var found chatSignal
	c.await("the signal that "+user+" is "+status, func() bool {
		for i, s := range c.signals[*seen:] {
			if s.Type == "presence" && s.UserID == user && s.Status == status {
				found, *seen = s, *seen+i+1
				return true
			}
		}
		return false
	})
	return found
}

// watch has both ways to know of it agree.
func (c *chatUser) watch(seen *int, room, user, status string) {
	c.t.Helper()
	var one chatPresence
	until(c.t, user+" is never "+status, func() bool {
		one = c.present(room)[user]
		return one.Status == status
	})
	if !signals(c.door) {
		return
	}
	told := c.sees(seen, user, status)
	if told.Room != room || told.DisplayName != "The "+user || told.DisplayName != one.DisplayName {
		c.t.Errorf("%s is told %+v, and finds %+v", c.id, told, one)
	}
	if since := time.Since(*told.LastSeen); since > 2*patience || since < -patience {
		c.t.Errorf("%s is told %+v", c.id, told)
	}
}

// TestChatPresence has others come and go, with more than one device, while a member watches, by each door.
func TestChatPresence(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	to := []string{serve(t, flags...).url, serve(t, flags...).url}
	for i, door := range chatDoors {
		t.Run(door, func(t *testing.T) {
			t.Parallel()
			place, seen := chatPlace{t, door, to}, 0
			alice := place.user("alice", door).from(i).come()
			room := alice.opens("Presence", "bob", "carol", "dave").ID
			if one := alice.present(room)["bob"]; one.Status != "offline" || one.LastSeen != nil {
				t.Errorf("bob was never there, and is %+v", one)
			}
			other := chatDoors[i%(len(chatDoors)-1)] // polls go offline late
			here := place.user("bob", other).come()
			alice.watch(&seen, room, "bob", "online")
			there := place.user("bob", other).from(1).come()
			streams := 3
			if !signals(door) {
				streams--
			}
			until(t, "the second device is not counted", func() bool { return alice.stats(room).ActiveConnections == streams })

			// One closes, and somebody else comes and goes after it: bob was there all the time.
			before := seen
			here.leave()
			carol := place.user("carol", other).rooms(room).from(1).come()
			alice.watch(&seen, room, "carol", "online")
			carol.leave()
			alice.watch(&seen, room, "carol", "offline")
			if one := alice.present(room)["bob"]; one.Status != "online" {
				t.Errorf("with one device bob is %+v", one)
			}
			alice.mu.Lock()
			if slices.ContainsFunc(alice.signals[before:], func(s chatSignal) bool { return s.UserID == "bob" && s.Status == "offline" }) {
				t.Errorf("bob was said to be offline: %+v", alice.signals[before:])
			}
			alice.mu.Unlock()

			for _, status := range []string{"away", "offline", "online", "away"} {
				there.does(http.StatusOK, "presence", room, fields{"status": status})
				alice.watch(&seen, room, "bob", status)
			}
			there.does(http.StatusBadRequest, "presence", room, fields{"status": "busy"})

			// Whoever comes is told who is there.
			dave, roster := place.user("dave", other).from(1).come(), 0
			dave.sees(&roster, "bob", "away")
			roster = 0
			dave.sees(&roster, "alice", "online")
			dave.leave()

			left := time.Now()
			there.leave()
			alice.watch(&seen, room, "bob", "offline")
			if one := alice.present(room)["bob"]; one.LastSeen == nil || one.LastSeen.Before(left.Add(-5*time.Second)) || one.LastSeen.After(time.Now().Add(time.Second)) {
				t.Errorf("bob left at %s, and is %+v", left, one)
			}
		})
	}
}

// killedPatience is how long the users of a killed instance may be shown as being there.
const killedPatience = 30 * time.Second

// TestChatPresenceKill kills an instance: who was there through it is offline, and who had another device elsewhere is not.
func TestChatPresenceKill(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	stays, dies := serve(t, flags...), serve(t, flags...)
	place, seen := chatPlace{t, "1", []string{stays.url}}, 0
	alice := place.user("alice", "sse and POST").come()
	room := alice.opens("Presence", "bob", "carol").ID
	doomed := chatPlace{t, "1", []string{dies.url}}
	carol := []*chatUser{doomed.user("carol", "socket").come(), place.user("carol", "socket").come()}
	doomed.user("bob", "ndjson and POST").come()
	alice.watch(&seen, room, "bob", "online")
	dies.kill()
	killed := time.Now()
	alice.within(killedPatience, "bob is offline", func() bool {
		return slices.ContainsFunc(alice.signals[seen:], func(s chatSignal) bool { return s.UserID == "bob" && s.Status == "offline" })
	})
	t.Logf("offline after %s", time.Since(killed))
	users := alice.present(room)
	if users["bob"].Status != "offline" || users["bob"].LastSeen == nil || users["carol"].Status != "online" {
		t.Errorf("the users are %+v", users)
	}
	carol[1].leave()
	alice.watch(&seen, room, "carol", "offline")
}

// pollsCount is for how long a poll says that a user is there.
const pollsCount = 30 * time.Second

// TestChatPresencePolls polls once, and is there for 30 s.
func TestChatPresencePolls(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	place := chatPlace{t, "1", []string{serve(t, flags...).url, serve(t, flags...).url}}
	alice, bob, seen := place.user("alice", "sse and POST").come(), place.user("bob", "poll and POST").from(1), 0
	room := alice.opens("Presence", "bob", "carol").ID
	place.user("carol", "sse and POST").from(1).come() // who keeps the log in use there
	bob.calls(http.StatusOK, http.MethodGet, "/v2/realtime/poll?services=chat&wait=0", nil, nil)
	polled := time.Now()
	alice.watch(&seen, room, "bob", "online")
	until(t, "the figures do not come", func() bool {
		figures := alice.stats(room)
		return figures.ActiveConnections == 2 && figures.OnlineUsers == 3
	})
	alice.sees(&seen, "bob", "offline")
	if since := time.Since(polled); since < pollsCount-time.Second {
		t.Errorf("after %s bob is offline", since)
	}
	if one := alice.present(room)["bob"]; one.Status != "offline" || one.LastSeen == nil {
		t.Errorf("bob is %+v", one)
	}
}

// TestChatSignalsAfterRemoval has a member removed who has a stream open: of who is there, and who types, they hear no more.
func TestChatSignalsAfterRemoval(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	to := []string{serve(t, flags...).url, serve(t, flags...).url}
	for _, door := range chatDoors {
		if !signals(door) {
			continue
		}
		t.Run(door, func(t *testing.T) {
			t.Parallel()
			place := chatPlace{t, door, to}
			alice, bob, carol, seen := place.user("alice", door).come(), place.user("bob", door).from(1).come(), place.user("carol", door).from(1).come(), 0
			room := alice.opens("Signals", "bob", "carol").ID
			aside := alice.opens("Aside", "bob", "carol").ID
			alice.does(http.StatusOK, "presence", room, fields{"status": "away"})
			bob.sees(&seen, "alice", "away")
			alice.removes(room, "bob")
			bob.await("bob is told", func() bool {
				return slices.ContainsFunc(bob.log, func(e chatEvent) bool { return e.Type == "member_removed" })
			})
			bob.mu.Lock()
			told, acked := len(bob.signals), bob.acked
			bob.mu.Unlock()
			bob.cuts() // whoever comes is told who is there, in the rooms of now
			bob.await("the door opens again", func() bool { return bob.acked > acked })
			seen = 0
			alice.does(http.StatusOK, "presence", room, fields{"status": "online"})
			alice.does(http.StatusOK, "typing", room, nil)
			carol.sees(&seen, "alice", "away")
			carol.sees(&seen, "alice", "online")
			carol.await("alice types", func() bool {
				return slices.ContainsFunc(carol.signals, func(s chatSignal) bool { return s.Type == "typing" })
			})
			alice.does(http.StatusOK, "presence", aside, fields{"status": "away"}) // which bob may hear of
			bob.await("alice is away", func() bool {
				return slices.ContainsFunc(bob.signals, func(s chatSignal) bool { return s.Room == aside && s.Status == "away" })
			})
			bob.mu.Lock()
			for _, s := range bob.signals[told:] {
				if s.Room == room {
					t.Errorf("bob hears %+v", s)
				}
			}
			bob.mu.Unlock()
		})
	}
}
