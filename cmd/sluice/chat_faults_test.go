package main

import (
	"net/http"
	"slices"
	"syscall"
	"testing"

	"sluice/store/localpg/pgtest"
)

// TestChatConnectionsCut cuts every connection to Postgres, again and again, while a room talks and somebody is added and removed.
// What is not known to be done is done once.
func TestChatConnectionsCut(t *testing.T) {
	t.Parallel()
	l := pgtest.NewLink(t, pgtest.Database(t))
	flag := "--database-url=" + l.URL
	to := []string{serve(t, flag).url, serve(t, flag).url}
	place := chatPlace{t, "cut", to}
	all := newCrowd(place, 20)
	guest := place.user("guest", "sse and POST").come()
	const each = 12
	all.speak(each)
	maker, other, member := all.members[0], all.members[1], "/v2/rooms/"+all.room+"/members/guest"
	for i := range 8 {
		all.reach((i + 1) * each * len(all.members) / 10)
		l.Cut()
		maker.admits(all.room, "guest")
		maker.asks(http.StatusOK, nil, func() (chatAnswer, error) {
			got, err := maker.call(http.MethodDelete, member, nil)
			if err == nil && got.status == http.StatusNotFound { // it was the one before that was not answered
				got.status = http.StatusNoContent
			}
			return got, err
		})
	}
	all.group.Wait()
	maker.admits(all.room, "guest")
	maker.says(all.room, "end")
	var want []chatEvent
	inside, moves := false, 0
	for _, e := range other.until("end") {
		if e.Type == "member_added" || e.Type == "member_removed" {
			if moves++; e.Data.UserID != "guest" || inside == (e.Type == "member_added") {
				t.Fatalf("the guest's move %d is %+v", moves, e)
			}
			inside = !inside
			want = append(want, e)
		} else if inside {
			want = append(want, e)
		}
	}
	if got := guest.until("end"); moves != 17 || !slices.Equal(got, want) {
		t.Errorf("after %d moves the guest was given %q, not %q", moves, said(got), said(want))
	}
	whole := other.whole(all.room, 200)
	for i, one := range whole {
		if one.Seq != int64(i+1) {
			t.Fatalf("message %d has the number %d", i+1, one.Seq)
		}
	}
	if len(whole) != each*len(all.members)+1 {
		t.Errorf("%d messages of %d members", len(whole), len(all.members))
	}
}

// TestChatPooler holds the conversation through PgBouncer, by each door, and has a room talk while it is started again.
func TestChatPooler(t *testing.T) {
	t.Parallel()
	direct := pgtest.Database(t)
	between := startPooler(t, direct)
	flags := []string{"--database-url=" + between.url, "--listen-database-url=" + direct}
	to := []string{serve(t, flags...).url, serve(t, flags...).url}
	for _, door := range chatDoors {
		converse(t, chatPlace{t, door, to}, door)
	}
	all := newCrowd(chatPlace{t, "crowd", to}, 20)
	const each = 10
	all.speak(each)
	all.reach(each * len(all.members) / 3)
	between.end(syscall.SIGKILL)
	between.start()
	all.compare(each)
}
