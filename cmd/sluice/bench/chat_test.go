package bench

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// TestMessagesAreSeen cuts what a member's stream carries in two at every byte, door by door: the messages are seen with their
// numbers and times, once each, and what is none is not taken for one.
func TestMessagesAreSeen(t *testing.T) {
	c := &crowd{rooms: 2, members: 3, name: "room"}
	at := time.Unix(0, 1_700_000_000_000_000_001)
	message := func(seq, inRoom int64, number int64) string {
		user, room := c.speaker(number)
		return floorMessage(c, seq, inRoom, user, room, clientID(number, at))
	}
	added := strings.Replace(strings.Replace(message(2, 9, 9), "message_created", "member_added", 1), `"seq":9,`, "", 1)
	for _, door := range []door{doorSSE, doorNDJSON, doorWebSocket} {
		text := door.greeting() + string(door.frame("chat", 0, []string{message(1, 1, 0)})) +
			string(door.frame("chat", 1, []string{added, message(3, 2, 4)}))
		signal := `"room":"room-0","userId":"visitor-0","status":"away"}`
		switch door {
		case doorSSE:
			text += chunk("event: presence\ndata: {" + signal + "\n\n")
		case doorNDJSON:
			text += chunk(`{"type":"presence",` + signal + "\n")
		default:
			text += string(textFrame(`{"type":"presence",`+signal)) + string(textFrame(`{"type":"ok","ref":"7-8","result":{"seq":3}}`))
		}
		want := []said{{}, {1, 0}, {}, {2, 4}, {}}
		kinds := []kind{kindAck, kindEvent, kindEvent, kindEvent, kindPresence}
		if door == doorWebSocket {
			want, kinds = append(want, said{}), append(kinds, kindAnswer)
		}
		for cut := range len(text) {
			r, n := &response{door: door, chat: true}, 0
			for _, piece := range []string{text[:cut], text[cut:]} {
				err := r.feed([]byte(piece), func(f *frame) {
					if n >= len(want) || f.said != want[n] || f.kind != kinds[n] || (f.stamp == at.UnixNano()) != (want[n].seq > 0) {
						t.Fatalf("%s, cut at %d: frame %d is %+v", door, cut, n, *f)
					}
					n++
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if n != len(want) {
				t.Fatalf("%s, cut at %d: %d of %d frames", door, cut, n, len(want))
			}
		}
	}
}

// TestExactlyOnce judges what a member has heard of room 1 of two, in which the messages 1, 3 and 5 were said.
func TestExactlyOnce(t *testing.T) {
	for name, c := range map[string]struct {
		heard               []said
		lost, twice, astray int64
	}{
		"all":             {[]said{{1, 1}, {2, 3}, {3, 5}}, 0, 0, 0},
		"none":            {nil, 3, 0, 0},
		"a hole":          {[]said{{1, 1}, {3, 5}}, 1, 0, 0},
		"no end":          {[]said{{1, 1}, {2, 3}}, 1, 0, 0},
		"twice":           {[]said{{1, 1}, {2, 3}, {2, 3}, {3, 5}}, 0, 1, 0},
		"out of order":    {[]said{{2, 3}, {1, 1}, {3, 5}}, 1, 1, 0},
		"said twice":      {[]said{{1, 1}, {2, 3}, {3, 5}, {4, 5}}, 0, 1, 0},
		"another room's":  {[]said{{1, 1}, {2, 2}, {3, 5}}, 0, 0, 2},
		"another message": {[]said{{1, 1}, {2, 3}, {3, 7}}, 0, 0, 1},
	} {
		load := &crowd{rooms: 2, members: 1}
		one := load.listeners()[1]
		for _, m := range c.heard {
			one.hear(m)
		}
		o := chatOutcome{outcome: outcome{Messages: 6}}
		o.judge(load, []*listener{one})
		if o.Lost != c.lost || o.Repeated != c.twice || o.Astray != c.astray || (o.verdict() == nil) != (name == "all") {
			t.Errorf("%s: %d lost, %d twice, %d astray: %v", name, o.Lost, o.Repeated, o.Astray, o.verdict())
		}
	}
}

// TestShares compares what should be heard in each room with who spoke where, of loads that end anywhere.
func TestShares(t *testing.T) {
	c := &crowd{rooms: 3, members: 4}
	for messages := range int64(30) {
		var counts, sums [3]int64
		for n := range messages {
			user, room := c.speaker(n)
			if user/c.members != room {
				t.Fatalf("message %d: user %d speaks in room %d", n, user, room)
			}
			counts[room]++
			sums[room] += n
		}
		for room := range c.rooms {
			if count, sum := c.shareOf(room, messages); count != counts[room] || sum != sums[room] {
				t.Errorf("room %d of %d messages: %d with the sum %d", room, messages, count, sum)
			}
		}
	}
}

// TestClientFrames has frames of each size read by a library for servers.
func TestClientFrames(t *testing.T) {
	for _, size := range []int{0, 125, 126, 65535, 65536} {
		text := strings.Repeat("x", size)
		from := bytes.NewReader(clientFrame(text))
		header, err := ws.ReadHeader(from)
		if err != nil || ws.CheckHeader(header, ws.StateServerSide) != nil || !header.Fin || header.OpCode != ws.OpText || !header.Masked {
			t.Fatalf("%d bytes: %+v (%v)", size, header, err)
		}
		payload, err := io.ReadAll(from)
		ws.Cipher(payload, header.Mask, 0)
		if err != nil || string(payload) != text || header.Length != int64(size) {
			t.Errorf("%d bytes: %+v (%v)", size, header, err)
		}
	}
}
