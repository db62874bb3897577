package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
)

// TestTickets uses tickets in time, too late, once and again, and finds nothing of those that are over.
func TestTickets(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	ctx := t.Context()
	issue := func(name string, ends time.Duration) []byte {
		digest := sha256.Sum256([]byte(name))
		until, err := s.KeepTicket(ctx, digest[:], []byte(`{"who":"`+name+`"}`), time.Now().Add(ends))
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(until); left > min(ends, ticketPatience)+time.Second || left < min(ends, ticketPatience)-10*time.Second {
			t.Errorf("%s is to be used within %v", name, left)
		}
		return digest[:]
	}
	use := func(digest []byte, once bool, want int64) {
		t.Helper()
		caller, use, err := s.UseTicket(ctx, digest, once)
		switch {
		case want == 0 && !errors.Is(err, ErrNoTicket):
			t.Errorf("used as %d: %v", use.Number, err)
		case want > 0 && (err != nil || use.Number != want || !bytes.HasPrefix(caller, []byte(`{"who":`))):
			t.Errorf("used as %d instead of %d by %s: %v", use.Number, want, caller, err)
		}
	}
	stream, socket, late, kept := issue("stream", time.Hour), issue("socket", time.Hour), issue("late", time.Hour), issue("kept", time.Hour)
	use(stream, false, 1)
	use(stream, false, 2)
	use(stream, true, 0)
	use(stream, false, 3)
	use(socket, true, 1)
	use(socket, true, 0)
	use(socket, false, 0)
	use([]byte("nobody's"), false, 0)
	use(kept, false, 1)
	// Half a minute passes.
	if _, err := s.db.Exec(`update sluice.tickets set until = until - interval '31 s'`); err != nil {
		t.Fatal(err)
	}
	use(late, false, 0)
	use(late, true, 0)
	use(stream, false, 4)
	if _, err := s.db.Exec(`update sluice.tickets set until = now() where digest = $1`, kept); err != nil {
		t.Fatal(err)
	}
	use(kept, false, 0)
	if err := s.ForgetTickets(ctx); err != nil {
		t.Fatal(err)
	}
	if left := ask[int](t, s.db, `select count(*) from sluice.tickets`); left != 2 {
		t.Errorf("%d tickets are kept", left)
	}
	if text := ask[string](t, s.db, `select string_agg(t::text, ' ') from sluice.tickets t`); strings.Contains(text, "nobody") {
		t.Error(text)
	}
	uses, err := s.TicketUses(ctx, []string{"00ff", hex.EncodeToString(stream), hex.EncodeToString(late)})
	if err != nil || len(uses) != 1 || uses[0] != (TicketUse{hex.EncodeToString(stream), 4}) {
		t.Errorf("%v %v", uses, err)
	}
}

// TestTicketsAtOnce uses one ticket many times at once: each use has a number of its own, and for a WebSocket there is one.
func TestTicketsAtOnce(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.Database(t))
	for _, once := range []bool{false, true} {
		digest := sha256.Sum256([]byte{byte(len(t.Name()))})
		if once {
			digest[0]++
		}
		if _, err := s.KeepTicket(t.Context(), digest[:], []byte(`{}`), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var group sync.WaitGroup
		numbers := map[int64]int{}
		for range 20 {
			group.Go(func() {
				_, use, err := s.UseTicket(t.Context(), digest[:], once)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					numbers[use.Number]++
				case !once || !errors.Is(err, ErrNoTicket):
					t.Error(err)
				}
			})
		}
		group.Wait()
		if want := map[bool]int{false: 20, true: 1}[once]; len(numbers) != want || numbers[1] != 1 {
			t.Errorf("once %v: %v", once, numbers)
		}
	}
}

// TestTicketHeard tells other instances of a later use, and of a first one nobody.
func TestTicketHeard(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	s, other := open(t, database), open(t, database)
	ear := hear(t, other)
	digest := sha256.Sum256([]byte("ticket"))
	if _, err := s.KeepTicket(t.Context(), digest[:], []byte(`{}`), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, _, err := s.UseTicket(t.Context(), digest[:], false); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "the third use is heard of", func() bool {
		ear.mu.Lock()
		defer ear.mu.Unlock()
		return len(ear.used) == 2
	})
	ear.mu.Lock()
	defer ear.mu.Unlock()
	for i, use := range ear.used {
		if use != (TicketUse{hex.EncodeToString(digest[:]), int64(i + 2)}) {
			t.Errorf("heard of %v", ear.used)
		}
	}
}
