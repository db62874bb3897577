package main

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// crowd is a room of many, by all doors, at several instances.
type crowd struct {
	t       testing.TB
	room    string
	members []*chatUser
	acked   atomic.Int64 // messages whose senders know that they are sent
	group   sync.WaitGroup
}

func newCrowd(place chatPlace, size int) *crowd {
	place.t.Helper()
	all := &crowd{t: place.t}
	var names []string
	for i := range size {
		one := place.user(fmt.Sprintf("u%03d", i), chatDoors[i%len(chatDoors)]).from(i)
		all.members = append(all.members, one)
		names = append(names, one.id)
	}
	all.room = all.members[0].opens("Crowd", names...).ID
	for _, one := range all.members {
		one.enter()
	}
	for _, one := range all.members {
		one.await("the door opens", func() bool { return one.acked > 0 })
	}
	return all
}

// speak has everybody send so many messages, each once the one before is answered.
func (all *crowd) speak(each int) {
	for _, one := range all.members {
		all.group.Go(func() {
			for n := range each {
				if _, err := one.sends(all.room, fmt.Sprint(one.id, " ", n)); err != nil {
					all.t.Error(err)
					return
				}
				all.acked.Add(1)
			}
		})
	}
}

// reach waits until so many messages are sent.
func (all *crowd) reach(many int) {
	all.t.Helper()
	deadline := time.After(3 * patience)
	for all.acked.Load() < int64(many) {
		select {
		case <-deadline:
			all.t.Fatalf("%d of %d messages are sent", all.acked.Load(), many)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// compare looks that each member has exactly what was said, and in the order that history has.
func (all *crowd) compare(each int) {
	t := all.t
	t.Helper()
	all.group.Wait()
	all.members[0].says(all.room, "end")
	whole := all.members[1].whole(all.room, 200)
	next := map[string]int{}
	for i, one := range whole {
		if one.Seq != int64(i+1) {
			t.Fatalf("message %d has the number %d", i+1, one.Seq)
		}
		if want := fmt.Sprint(one.UserID, " ", next[one.UserID]); one.Text != want && one.Text != "end" {
			t.Fatalf("message %d is %q, not %q", one.Seq, one.Text, want)
		}
		next[one.UserID]++
	}
	if len(whole) != each*len(all.members)+1 {
		t.Fatalf("%d messages of %d members", len(whole), len(all.members))
	}
	for _, one := range all.members {
		got := one.until("end")
		if len(got) != len(whole) {
			t.Fatalf("%s by %s was given %d events, not %d", one.id, one.door, len(got), len(whole))
		}
		for i, event := range got {
			message := chatMessage{Seq: event.Data.Seq, UserID: event.UserID, DisplayName: event.Data.DisplayName, Text: event.Data.Text, ClientID: event.Data.ClientID}
			want := whole[i]
			want.Time = time.Time{}
			if event.Type != "message_created" || message != want || event.Data.UserID != event.UserID {
				t.Fatalf("%s by %s was given %+v, not %+v", one.id, one.door, event, want)
			}
		}
	}
}

// TestChatCrowd has 100 users in a room, by all doors of two instances. Everybody sends, some lose their
// connection in the middle of it, and everybody ends with exactly the room's messages in their order.
func TestChatCrowd(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	all := newCrowd(chatPlace{t, "1", []string{serve(t, flags...).url, serve(t, flags...).url}}, 100)
	all.speak(5)
	for i, one := range all.members {
		if all.reach(4 * i); i%3 == 0 {
			one.cuts()
		}
	}
	all.compare(5)
}

// TestChatKill kills one of the two instances in the middle of that: its users go on at the other one with their cursors, and
// send again what was not answered.
func TestChatKill(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	killed := serve(t, flags...)
	all := newCrowd(chatPlace{t, "1", []string{serve(t, flags...).url, killed.url}}, 100)
	all.speak(5)
	all.reach(150)
	killed.kill()
	all.compare(5)
}

// TestChatRollingRestart replaces one instance after the other while a room talks. Whoever has a stream is told to come back.
func TestChatRollingRestart(t *testing.T) {
	t.Parallel()
	flags := append(shared(t), "--drain=2s")
	var instances [2]*process
	start := func(i int, address string) {
		instances[i] = serve(t, append(slices.Clone(flags), "--listen="+address)...)
	}
	addresses := []string{freePort(t), freePort(t)}
	for i, address := range addresses {
		start(i, address)
	}
	all := newCrowd(chatPlace{t, "1", []string{instances[0].url, instances[1].url}}, 40)
	const each = 12
	all.speak(each)
	for i, address := range addresses {
		all.reach((2*i + 1) * each * len(all.members) / 5)
		if err := instances[i].stop(); err != nil {
			t.Fatalf("the instance ended with %v", err)
		}
		start(i, address)
	}
	all.compare(each)
	for i, one := range all.members {
		one.mu.Lock()
		if signals(one.door) && one.drained == 0 {
			t.Errorf("%s by %s, first at instance %d, was never told to come back", one.id, one.door, i%2)
		}
		one.mu.Unlock()
	}
}
