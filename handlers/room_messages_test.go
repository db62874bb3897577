package handlers

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// TestTexts sends texts of all kinds: each is kept, and told in history, in the answer and in the log, as it was sent.
func TestTexts(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	d.server.messageAllowance = newAllowance(0, 0, "")
	user := as(t, "u")
	room := d.makeRoom(user)
	want := map[string]string{
		`"<script>alert('x')</script> &amp; &"`:          `<script>alert('x')</script> &amp; &`,
		`" \n\ta\r\n "`:                                  " \n\ta\r\n ",
		`" "`:                                            " ",
		`"\u0001\u001f\u007f\u0085"`:                     "\x01\x1f\x7f\u0085",
		`"\ud83d\ude00\uD83D\uDE00"`:                     "\U0001F600\U0001F600",
		`"\\ud83d \\\\ud83d \\\ud83d\ude00"`:             `\ud83d \\ud83d ` + "\\\U0001F600",
		`"\ufffd\ufffe\u2028\u2029"`:                     "\uFFFD\uFFFE\u2028\u2029",
		"\"e\u0301 \u00e9 \u202e\u200b\"":                "e\u0301 \u00e9 \u202e\u200b",
		`"` + strings.Repeat("\U0001F600", 4000) + `"`:   strings.Repeat("\U0001F600", 4000),
		`"` + strings.Repeat(`\ud83d\ude00`, 4000) + `"`: strings.Repeat("\U0001F600", 4000),
		`"'; drop table sluice.messages; --"`:            `'; drop table sluice.messages; --`,
	}
	texts := map[int64]string{}
	for body, text := range want {
		got := d.json("POST", room+"/messages", user, `{"clientId":"`+strconv.Itoa(len(texts))+`","text":`+body+`}`)
		got.wants(t, body, http.StatusCreated)
		var m wireMessage
		got.into(t, &m)
		if m.Text != text || m.Seq != int64(len(texts)+1) || m.EditedAt != nil || m.Deleted || m.DisplayName != "N. u" || time.Since(at(t, m.Time)).Abs() > time.Minute {
			t.Errorf("%s is answered with %+v", body, m)
		}
		texts[m.Seq] = text
	}
	for _, m := range d.historyOf(room, user, "limit=200").Messages {
		if m.Text != texts[m.Seq] {
			t.Errorf("the history has %q for %q", m.Text, texts[m.Seq])
		}
	}
	for _, e := range d.logOf("1") {
		var news wireMessage
		if err := json.Unmarshal(e.Data, &news); err != nil || e.Type == "message_created" && news.Text != texts[news.Seq] {
			t.Errorf("the log has %s: %v", e.Data, err)
		}
	}
}

// TestPairs holds what is taken for half of a surrogate pair against the decoding of UTF-16.
func TestPairs(t *testing.T) {
	t.Parallel()
	pieces := []string{`\ud83d`, `\ude00`, `\uD800`, `\uDFFF`, `\udbff`, `\udc00`, `\\`, `\"`, `\n`, "u", "d83d", "x", "ü", "\U0001F600", `\u0041`, `\ue000`, `\ud7ff`}
	rapid.Check(t, func(t *rapid.T) {
		text := `"` + strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 12).Draw(t, "pieces"), "") + `"`
		// A decoder that keeps half a pair as it is: what JSON escapes stands as UTF-16 then.
		var units []uint16
		for rest := text[1 : len(text)-1]; rest != ""; {
			if strings.HasPrefix(rest, `\u`) {
				unit, err := strconv.ParseUint(rest[2:6], 16, 16)
				if err != nil {
					t.Fatal(err)
				}
				units, rest = append(units, uint16(unit)), rest[6:]
				continue
			}
			if strings.HasPrefix(rest, `\`) {
				units, rest = append(units, uint16(rest[1])), rest[2:]
				continue
			}
			r, size := utf8.DecodeRuneInString(rest)
			units, rest = utf16.AppendRune(units, r), rest[size:]
		}
		whole := !strings.ContainsRune(string(utf16.Decode(units)), utf8.RuneError)
		if err := paired([]byte(text)); (err == nil) != whole {
			t.Fatalf("%s: %v", text, err)
		}
	})
}

// TestSameClientID has one user send one clientId from many places at once, and later once more: there is one message. Another user
// may use the same.
func TestSameClientID(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := as(t, "u")
	room := d.makeRoom(user, "v")
	bodies := make([]string, 15)
	var group sync.WaitGroup
	for i := range bodies {
		group.Go(func() {
			got := d.json("POST", room+"/messages", user, `{"clientId":7,"text":"text `+strconv.Itoa(i)+`"}`)
			if got.status != http.StatusCreated {
				t.Errorf("%d %s", got.status, got.body)
			}
			bodies[i] = got.body
		})
	}
	group.Wait()
	again := d.json("POST", room+"/messages", user, `{"clientId":"7","text":"another"}`)
	for _, body := range bodies {
		if body != again.body {
			t.Errorf("answered with %s, later with %s", body, again.body)
		}
	}
	if m := d.says(room, as(t, "v"), "7", "v's"); m.Seq != 2 {
		t.Errorf("the other user's is %+v", m)
	}
	d.json("POST", d.makeRoom(user)+"/messages", user, `{"clientId":"7","text":"x"}`).wants(t, "elsewhere", 409, "field", "clientId")
	if h := d.historyOf(room, user, ""); len(h.Messages) != 2 {
		t.Errorf("%+v", h)
	}
}

// TestMessageLife edits and deletes, in the right order and in wrong ones.
func TestMessageLife(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	d.server.messageAllowance = newAllowance(0, 0, "")
	owner, ada, boss := as(t, "owner"), as(t, "ada"), mint(t, Claims{User: "boss", Role: "ADMIN"})
	room := d.makeRoom(owner, "ada", "boss")
	d.says(room, ada, "1", "one")
	d.says(room, owner, "2", "two")
	d.says(room, ada, "3", "three")
	for i, one := range []struct {
		method, message, token, body string
		status                       int
	}{
		{"PATCH", "1", owner, `{"text":"hers"}`, 403},
		{"DELETE", "2", ada, "", 403},
		{"PATCH", "4", ada, `{"text":"none yet"}`, 404},
		{"DELETE", "4", ada, "", 404},
		{"PATCH", "1", ada, `{"text":"<b>uno</b>"}`, 200},
		{"DELETE", "1", owner, "", 204},
		{"DELETE", "1", ada, "", 204}, // again
		{"PATCH", "1", ada, `{"text":"back"}`, 404},
		{"DELETE", "2", boss, "", 204},
		{"PATCH", "3", ada, `{"text":"three"}`, 200}, // as it was
	} {
		d.json(one.method, room+"/messages/"+one.message, one.token, one.body).wants(t, fmt.Sprintf("%d: %s %s", i, one.method, one.body), one.status)
	}
	h := d.historyOf(room, ada, "").Messages
	if len(h) != 3 || !h[0].Deleted || h[0].Text != "" || h[0].EditedAt == nil || !h[1].Deleted || h[2].Text != "three" || h[2].EditedAt != nil {
		t.Errorf("%+v", h)
	}
	if again := d.says(room, ada, "1", "one"); !again.Deleted || again.Seq != 1 {
		t.Errorf("what was deleted is said again: %+v", again)
	}
}

// TestHistory pages through a room in both directions and looks through windows.
func TestHistory(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	d.server.messageAllowance = newAllowance(0, 0, "")
	user := as(t, "u")
	room := d.makeRoom(user)
	if got := d.ask("GET", room+"/messages", user, ""); strings.TrimSpace(got.body) != `{"hasMore":false,"messages":[]}` {
		t.Errorf("an empty room has %s", got.body)
	}
	const n = 60
	for i := range n {
		d.says(room, user, strconv.Itoa(i), strconv.Itoa(i+1))
	}
	for _, one := range []struct {
		query       string
		first, last int64
		more        bool
	}{
		{"", 11, 60, true},
		{"before=&after=&limit=", 11, 60, true},
		{"limit=200", 1, 60, false},
		{"limit=60", 1, 60, false},
		{"limit=59", 2, 60, true},
		{"before=11&limit=10", 1, 10, false},
		{"before=12&limit=10", 2, 11, true},
		{"before=1", 1, 0, false},
		{"before=0", 1, 0, false},
		{"before=9223372036854775807&limit=1", 60, 60, true},
		{"after=0&limit=10", 1, 10, true},
		{"after=50", 51, 60, false},
		{"after=60", 1, 0, false},
		{"after=9223372036854775807", 1, 0, false},
		{"after=10&before=20", 11, 19, false},
		{"after=10&before=20&limit=3", 11, 13, true},
		{"after=20&before=10", 1, 0, false},
	} {
		h := d.historyOf(room, user, one.query)
		if int64(len(h.Messages)) != one.last-one.first+1 || h.HasMore != one.more {
			t.Errorf("%s gives %d messages, more: %v", one.query, len(h.Messages), h.HasMore)
			continue
		}
		for i, m := range h.Messages {
			if m.Seq != one.first+int64(i) {
				t.Errorf("%s gives message %d as its %dth", one.query, m.Seq, i)
			}
		}
	}
}

// TestMessageRate uses up what a user may send over all doors together: then all of them refuse, other users go on, nothing ends,
// and a second later there is room for ten more.
func TestMessageRate(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := as(t, "u")
	room := d.makeRoom(user, "v")
	id := strings.TrimPrefix(room, "/v2/rooms/")
	c := d.dialSocket(user, "services=finance")
	c.expect("ack")
	refused, taken, began := 0, 0, time.Now()
	count := func(status int) {
		switch status {
		case http.StatusTooManyRequests:
			refused++
		case http.StatusCreated, http.StatusOK, http.StatusNoContent, http.StatusNotFound:
			taken++
		default:
			t.Errorf("answered with %d", status)
		}
	}
	for i := range 20 {
		c.send(fmt.Sprintf(`{"type":"send","room":%q,"clientId":"s%d","text":"x"}`, id, i)) // without a ref
		got := d.json("POST", room+"/messages", user, fmt.Sprintf(`{"clientId":"p%d","text":"x"}`, i))
		if count(got.status); got.status == http.StatusTooManyRequests && got.header.Get("Retry-After") != "1" {
			t.Errorf("%v", got.header)
		}
		count(d.json("PATCH", room+"/messages/1", mint(t, Claims{User: "u", Role: "ADMIN"}), `{"text":"y"}`).status)
		count(d.ask("DELETE", room+"/messages/999", user, "").status)
	}
	c.send(fmt.Sprintf(`{"type":"typing","room":%q,"ref":"end"}`, id))
	over := 0
	for one := c.next(); one.Type != "ok"; one = c.next() {
		if one.Type != "problem" || one.Status != 429 || string(one.Ref) != "null" || one.Detail == "" {
			t.Fatalf("%+v", one)
		}
		over++
	}
	taken += 20 - over
	if most := 20 + int(10*time.Since(began).Seconds()) + 1; taken < 20 || taken > most || refused+over != 80-taken || over == 0 {
		t.Errorf("%d were taken, %d and %d refused, in %s", taken, refused, over, time.Since(began))
	}
	d.says(room, as(t, "v"), "v", "another user's")
	<-time.After(time.Second) // in which there is room again for ten
	for i := range 10 {
		d.says(room, user, fmt.Sprintf("late%d", i), "x")
	}
}

// TestRoomRate uses up what a user may change of rooms.
func TestRoomRate(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := as(t, "u")
	room := d.makeRoom(user)
	statuses := map[int]int{}
	for i := 0; i < 500 && statuses[http.StatusTooManyRequests] == 0; i++ {
		statuses[d.json("PATCH", room, user, `{"name":"x"}`).status]++
		statuses[d.ask("PUT", room+"/members/v", user, "").status]++
		statuses[d.ask("DELETE", room+"/members/none", user, "").status]++
	}
	if statuses[200]+statuses[204]+statuses[404] < 99 || statuses[429] == 0 {
		t.Errorf("%v", statuses)
	}
	d.says(room, user, "a", "x")
}

// TestLargeRoomRate has a user make rooms of as many members as one may begin with: few at once.
func TestLargeRoomRate(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	members := make([]string, membersLimit)
	for i := range members {
		members[i] = fmt.Sprintf("%q", fmt.Sprint("m", i))
	}
	body := `{"name":"x","members":[` + strings.Join(members, ",") + `]}`
	statuses := map[int]int{}
	for range 6 {
		statuses[d.json("POST", "/v2/rooms", as(t, "u"), body).status]++
	}
	if statuses[201] == 0 || statuses[429] == 0 {
		t.Errorf("%v", statuses)
	}
}
