package store

import (
	"crypto/rand"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// naive is a room as somebody keeps it who looks at every message for each question.
type naive struct {
	newest int64
	kept   []naiveMessage
	read   map[string]int64 // of members
	first  map[string]int64 // the newest message when a user first came
}

type naiveMessage struct {
	seq    int64
	user   string
	heard  []string // members then
	erased bool
}

func (n *naive) add(user string) {
	if _, is := n.read[user]; !is {
		n.read[user] = n.newest
	}
	if _, came := n.first[user]; !came {
		n.first[user] = n.newest
	}
}

func (n *naive) say(user string) {
	n.newest++
	one := naiveMessage{seq: n.newest, user: user}
	for member := range n.read {
		one.heard = append(one.heard, member)
	}
	n.kept = append(n.kept, one)
}

// history is what a user may see of a range, and whether there is more.
func (n *naive) history(user string, of HistoryRange) (seqs []int64, more bool) {
	for _, m := range n.kept {
		if (m.seq <= n.first[user] || slices.Contains(m.heard, user)) && (of.Before == nil || m.seq < *of.Before) && (of.After == nil || m.seq > *of.After) {
			seqs = append(seqs, m.seq)
		}
	}
	if more = len(seqs) > of.Limit; more && of.After != nil {
		seqs = seqs[:of.Limit]
	} else if more {
		seqs = seqs[len(seqs)-of.Limit:]
	}
	return seqs, more
}

func (n *naive) stats(user string) (stats RoomStats) {
	for _, m := range n.kept {
		if !m.erased {
			stats.Messages++
			if m.user != user && m.seq > n.read[user] {
				stats.Unread++
			}
		}
	}
	return stats
}

// TestRoomsAsNaive has rooms live at random: their histories and figures are those that a scan of all messages gives.
func TestRoomsAsNaive(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	users := []string{"own", "ann", "bob"}
	rapid.Check(t, func(r *rapid.T) {
		room := rand.Text()
		h.build(t, room, "own")
		n := &naive{read: map[string]int64{"own": 0}, first: map[string]int64{"own": 0}}
		for range rapid.IntRange(1, 6).Draw(r, "batches") {
			var changes []Change
			for range rapid.IntRange(1, 8).Draw(r, "changes") {
				changes = append(changes, n.step(r, h, room, users))
			}
			for i, err := range h.batch(t, changes...) {
				if err != nil {
					r.Fatalf("%T: %v", changes[i], err)
				}
			}
			n.mark(r, t, h, room, users)
			if rapid.IntRange(0, 3).Draw(r, "trims") == 0 {
				n.trim(r, t, h, room)
			}
			n.compare(r, t, h, room, users)
		}
	})
}

// step makes one change at random, here and in the room.
func (n *naive) step(r *rapid.T, h *house, room string, users []string) Change {
	user := rapid.SampledFrom(users).Draw(r, "user")
	_, member := n.read[user]
	switch what := rapid.SampledFrom([]string{"say", "say", "say", "erase", "move", "move"}).Draw(r, "what"); {
	case what == "say" && member:
		n.say(user)
		return h.NewSendMessage(by(user), room, rand.Text(), "x")
	case what == "erase" && len(n.kept) > 0:
		i := rapid.IntRange(0, len(n.kept)-1).Draw(r, "message")
		n.kept[i].erased = true
		return NewEraseMessage(by("own"), room, n.kept[i].seq)
	case member && user != "own":
		delete(n.read, user)
		return NewRemoveMember(by("own"), room, user)
	default:
		n.add(user)
		return NewAddMember(by("own"), room, user)
	}
}

func (n *naive) mark(r *rapid.T, t *testing.T, h *house, room string, users []string) {
	user, seq := rapid.SampledFrom(users).Draw(r, "reader"), rapid.Int64Range(-1, n.newest+2).Draw(r, "mark")
	before, member := n.read[user]
	if !member {
		return
	}
	n.read[user] = max(before, min(seq, n.newest))
	if moved, err := h.MarkRead(t.Context(), UserKey{"1", user}, room, seq); err != nil || moved != (n.read[user] > before) {
		r.Fatalf("%s at %d of %d marks %d: %v, %v", user, before, n.newest, seq, moved, err)
	}
}

func (n *naive) trim(r *rapid.T, t *testing.T, h *house, room string) {
	upto := rapid.Int64Range(0, n.newest).Draw(r, "trimmed")
	n.kept = slices.DeleteFunc(n.kept, func(m naiveMessage) bool { return m.seq <= upto })
	execute(t, h.db, `update sluice.messages set time = now() - interval '2 hours' where org = '1' and room = $1 and seq <= $2`, room, upto)
	if _, err := h.TrimMessages(t.Context(), time.Hour); err != nil {
		r.Fatal(err)
	}
}

func (n *naive) compare(r *rapid.T, t *testing.T, h *house, room string, users []string) {
	of := HistoryRange{Limit: rapid.IntRange(1, 10).Draw(r, "limit")}
	if bound := rapid.Int64Range(0, n.newest+1).Draw(r, "bound"); rapid.Bool().Draw(r, "before") {
		of.Before = &bound
	} else if rapid.Bool().Draw(r, "after") {
		of.After = &bound
	}
	for _, user := range users {
		if _, member := n.read[user]; !member {
			continue
		}
		seqs, more := n.history(user, of)
		history, err := h.History(t.Context(), by(user), room, of)
		got := []int64(nil)
		for _, m := range history.Messages {
			got = append(got, m.Seq)
		}
		if err != nil || !slices.Equal(got, seqs) || history.More != more {
			r.Fatalf("%s sees %v (%v) of %s, not %v (%v): %v", user, got, history.More, words(of), seqs, more, err)
		}
		if stats, err := h.RoomStats(t.Context(), by(user), room); err != nil || stats != n.stats(user) {
			r.Fatalf("%s has %+v, not %+v (%v)", user, stats, n.stats(user), err)
		}
	}
}

func words(of HistoryRange) string {
	text := fmt.Sprint(of.Limit)
	if of.Before != nil {
		text += fmt.Sprint(" before ", *of.Before)
	}
	if of.After != nil {
		text += fmt.Sprint(" after ", *of.After)
	}
	return text
}
