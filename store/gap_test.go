package store

import (
	"errors"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
)

// TestPageEndsAtAGap deletes an event in the middle, as somebody with access to the database may: no page leads across,
// and what is behind the gap is read from there on.
func TestPageEndsAtAGap(t *testing.T) {
	url := pgtest.Database(t)
	s := open(t, url)
	add(t, s, drafts("org", "e", 10)...)
	execute(t, connect(t, url), `delete from sluice.events where seq = 5`)
	for after, want := range map[int64][]int64{0: {1, 2, 3, 4}, 3: {4}, 4: {6, 7, 8, 9, 10}, 7: {8, 9, 10}} {
		page, err := s.Page(t.Context(), "org", after, time.Time{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, event := range page.Events {
			got = append(got, event.Seq)
		}
		if len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != want[len(want)-1] || page.Head != 10 {
			t.Errorf("after %d: %v with the head %d, not %v", after, got, page.Head, want)
		}
	}
}

// TestOtherServerBehindAPooler has the connections of a pooler lead to another incarnation of the log without being made
// anew. Neither is anything appended in the old epoch nor a page read in it, and the poll finds the new one.
func TestOtherServerBehindAPooler(t *testing.T) {
	url := pgtest.Database(t)
	s := openWith(t, Options{URL: url + " application_name=pooler", DirectURL: url, Migrate: true})
	add(t, s, drafts("org", "e", 3)...)
	was := s.Epoch()
	execute(t, connect(t, url), `update sluice.epoch set timeline = '00000077'`) // as a standby would find it
	if _, err := s.Append(t.Context(), itemsOf([]Draft{draft("org", "x")})); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("appended in the epoch of another server: %v", err)
	}
	if _, err := s.Page(t.Context(), "org", 0, time.Time{}, 100); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("read in the epoch of another server: %v", err)
	}
	heads, err := s.Heads(t.Context(), nil)
	if err != nil || heads.Epoch == was {
		t.Fatalf("the poll finds %+v, %v", heads, err)
	}
	answer, err := s.Append(t.Context(), itemsOf([]Draft{draft("org", "x")}))
	if err != nil || answer[0].Appended[0].Cursor.Epoch != heads.Epoch {
		t.Fatalf("%+v, %v", answer, err)
	}
}
