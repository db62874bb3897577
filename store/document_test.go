package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"sluice/store/localpg/pgtest"
)

const lease = time.Hour // of claims that no test waits for

// arrive writes an upload that is ready and queued for reading.
func arrive(t testing.TB, db *sqlx.DB, org, id, digest string) {
	t.Helper()
	execute(t, db, `insert into sluice.uploads (id, org, user_id, property_id, guest_id, filename, mime_type, document_type, size,
			byte_limit, held, position, sha256, state, expires)
		values ($2, $1, 'maker', '7', '', 'pass.png', 'image/png', 'passport', 5, 5, 5, 5, $3, 'ready', 'infinity')`, org, id, []byte(digest))
	execute(t, db, `insert into sluice.documents (upload) values ($1)`, id)
}

// readers opens a store with documents that wait, named by number.
func readers(t testing.TB, documents int) (*Store, *sqlx.DB) {
	t.Helper()
	url := pgtest.Database(t)
	s, db := open(t, url), connect(t, url)
	for i := range documents {
		arrive(t, db, "1", fmt.Sprint("u", i), fmt.Sprint("digest ", i))
	}
	return s, db
}

// claimed claims a document that has to be there.
func claimed(t testing.TB, s *Store) *DocumentClaim {
	t.Helper()
	claim, err := s.ClaimDocument(t.Context(), "here", lease)
	if err != nil || claim == nil {
		t.Fatalf("nothing to claim: %v", err)
	}
	return claim
}

// idle fails where there is something to claim.
func idle(t testing.TB, s *Store) {
	t.Helper()
	if claim, err := s.ClaimDocument(t.Context(), "here", lease); err != nil || claim != nil {
		t.Fatalf("claimed %+v, %v", claim, err)
	}
}

// settled finishes a claim, and gives the events that the log of org 1 has then.
func settled(t testing.TB, s *Store, claim *DocumentClaim, document Document) ([]Event, error) {
	t.Helper()
	answers, err := s.Append(t.Context(), []Item{{Change: &FinishDocument{Claim: claim, Document: document}}})
	if err != nil {
		t.Fatal(err)
	}
	return page(t, s, "1", 0).Events, answers[0].Err
}

// lapse ends the claims of now, as time would.
func lapse(t testing.TB, db *sqlx.DB) {
	t.Helper()
	execute(t, db, `update sluice.documents set due = now() where state = 'running'`)
}

// TestClaimsAreOfOne has many workers of two stores claim many documents: each is claimed once.
func TestClaimsAreOfOne(t *testing.T) {
	t.Parallel()
	const documents = 60
	url := pgtest.Database(t)
	db := connect(t, url)
	for i := range documents {
		arrive(t, db, "1", fmt.Sprint("u", i), "digest")
	}
	var mu sync.Mutex
	times := map[string]int{}
	var group sync.WaitGroup
	for _, s := range []*Store{open(t, url), open(t, url)} {
		for range 6 {
			group.Go(func() {
				for {
					claim, err := s.ClaimDocument(t.Context(), "here", lease)
					if err != nil {
						t.Error(err)
					}
					if claim == nil {
						return
					}
					mu.Lock()
					times[claim.Upload.ID]++
					mu.Unlock()
				}
			})
		}
	}
	group.Wait()
	for id, n := range times {
		if n != 1 {
			t.Errorf("%s was claimed %d times", id, n)
		}
	}
	// Rows that another claim has locked are skipped, so a worker may find nothing a moment before there is something.
	for {
		claim, err := open(t, url).ClaimDocument(t.Context(), "here", lease)
		if err != nil {
			t.Fatal(err)
		}
		if claim == nil {
			break
		}
		times[claim.Upload.ID]++
	}
	if len(times) != documents {
		t.Errorf("%d documents were claimed of %d", len(times), documents)
	}
}

// TestClaimTells shows what a claim knows of its upload.
func TestClaimTells(t *testing.T) {
	t.Parallel()
	s, _ := readers(t, 1)
	claim := claimed(t, s)
	u := claim.Upload
	if claim.Number != 1 || claim.Attempt != 1 || u.ID != "u0" || u.MimeType != "image/png" || u.DocumentType != "passport" ||
		u.Size != 5 || string(u.SHA256) != "digest 0" || u.User != "maker" {
		t.Errorf("%+v", claim)
	}
	idle(t, s)
}

// TestClaimIsFenced has a claim run out: the document is claimed again, and what the first one brings is refused.
func TestClaimIsFenced(t *testing.T) {
	t.Parallel()
	s, db := readers(t, 1)
	first := claimed(t, s)
	if err := s.RenewDocument(t.Context(), first, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	var second *DocumentClaim
	wait(t, "a claim that has run out is claimed", func() bool {
		var err error
		if second, err = s.ClaimDocument(t.Context(), "there", lease); err != nil {
			t.Fatal(err)
		}
		return second != nil
	})
	if second.Number != 2 || second.Attempt != 2 {
		t.Errorf("%+v", second)
	}
	if err := s.RenewDocument(t.Context(), first, lease); !errors.Is(err, ErrClaimLost) {
		t.Errorf("the first one renews: %v", err)
	}
	if err := s.ReturnDocument(t.Context(), first, 0, false, "old"); err != nil {
		t.Error(err)
	}
	idle(t, s)
	if events, err := settled(t, s, first, Document{State: "done", Text: "old"}); !errors.Is(err, ErrClaimLost) || len(events) > 0 {
		t.Errorf("the first one finishes: %v, %v", err, events)
	}
	if events, err := settled(t, s, second, Document{State: "done", Text: "new"}); err != nil || len(events) != 1 {
		t.Errorf("the second one finishes: %v, %v", err, events)
	}
	if text := ask[string](t, db, `select content from sluice.documents`); text != "new" {
		t.Errorf("it says %q", text)
	}
	if err := s.RenewDocument(t.Context(), second, lease); !errors.Is(err, ErrClaimLost) {
		t.Errorf("renewed when done: %v", err)
	}
	lapse(t, db)
	idle(t, s)
}

// TestReturnedClaims gives documents back: for later, with an attempt spent, or for now, as if nothing had been.
func TestReturnedClaims(t *testing.T) {
	t.Parallel()
	s, db := readers(t, 1)
	e := hear(t, s)
	claim := claimed(t, s)
	if err := s.ReturnDocument(t.Context(), claim, lease, true, "it rains"); err != nil {
		t.Fatal(err)
	}
	idle(t, s)
	if got, err := s.Upload(t.Context(), "u0"); err != nil || got.Document.State != "queued" || got.Document.Error != "it rains" {
		t.Errorf("%+v, %v", got.Document, err)
	}
	execute(t, db, `update sluice.documents set due = now()`)
	claim = claimed(t, s)
	if claim.Attempt != 2 {
		t.Errorf("attempt %d", claim.Attempt)
	}
	if n := e.queued.Load(); n != 0 {
		t.Errorf("%d notifications for what is due later", n)
	}
	if err := s.ReturnDocument(t.Context(), claim, 0, false, ""); err != nil {
		t.Fatal(err)
	}
	wait(t, "a notification that there is something to read", func() bool { return e.queued.Load() > 0 })
	if claim = claimed(t, s); claim.Attempt != 2 || claim.Number != 3 {
		t.Errorf("%+v", claim)
	}
}

// TestQueueNotifies wakes whoever may read a document once it is committed.
func TestQueueNotifies(t *testing.T) {
	t.Parallel()
	s, db := readers(t, 1)
	execute(t, db, `delete from sluice.documents`)
	e := hear(t, s)
	for range 2 { // again, as after an answer that was lost
		tx := db.MustBegin()
		if err := queueDocument(t.Context(), tx, "u0"); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "a notification", func() bool { return e.queued.Load() > 0 })
	claimed(t, s)
	idle(t, s)
}

// TestFinishIsOneTransaction finishes documents and looks at row and event together: both are there or neither, also where
// the first try's answer was lost, and where the log refuses the event.
func TestFinishIsOneTransaction(t *testing.T) {
	t.Parallel()
	s, db := readers(t, 1)
	claim := claimed(t, s)
	done := Document{State: "done", Text: "P<UTO", Fields: json.RawMessage(`{"b":{"value":"secret"},"a":{}}`), Confidence: 91.5}

	execute(t, db, `alter table sluice.events add constraint none check (service <> 'documents') not valid`)
	if _, err := s.Append(t.Context(), []Item{{Change: &FinishDocument{Claim: claim, Document: done}}}); err == nil {
		t.Error("the log has taken what it may not")
	}
	if state := ask[string](t, db, `select state from sluice.documents`); state != "running" {
		t.Errorf("without its event the document is %s", state)
	}
	execute(t, db, `alter table sluice.events drop constraint none`)
	for range 3 {
		events, err := settled(t, s, claim, done)
		if err != nil || len(events) != 1 {
			t.Fatalf("%v, %v", events, err)
		}
		want := `{"action":"update","documentId":"u0","documentType":"passport","filename":"pass.png","mimeType":"image/png","size":5,` +
			`"status":"ready","overallConfidence":91.5,"fieldsExtracted":2,"updatedFields":["a","b"]}`
		if e := events[0]; e.Service != "documents" || e.Type != "document_extracted" || string(e.Data) != want || e.ID != "upload-u0-extracted" {
			t.Errorf("%+v\n%s", e, e.Data)
		}
	}
	got, err := s.Upload(t.Context(), "u0")
	if err != nil || got.Document.State != "done" || got.Document.Text != "P<UTO" || got.Document.Confidence != 91.5 ||
		string(got.Document.Fields) != string(done.Fields) {
		t.Errorf("%+v, %v", got.Document, err)
	}
	if _, err := settled(t, s, claim, Document{State: "failed", Error: "after all"}); !errors.Is(err, ErrClaimLost) {
		t.Errorf("what is done fails: %v", err)
	}
}

// TestFinishWithoutDocument deletes an upload while it is read: nothing is kept of it and nothing told.
func TestFinishWithoutDocument(t *testing.T) {
	t.Parallel()
	s, db := readers(t, 1)
	claim := claimed(t, s)
	if err := s.DeleteUpload(t.Context(), "u0"); err != nil {
		t.Fatal(err)
	}
	if err := s.RenewDocument(t.Context(), claim, lease); !errors.Is(err, ErrClaimLost) {
		t.Errorf("renewed: %v", err)
	}
	if events, err := settled(t, s, claim, Document{State: "done", Text: "secret"}); !errors.Is(err, ErrClaimLost) || len(events) > 0 {
		t.Errorf("%v, %v", events, err)
	}
	if n := ask[int](t, db, `select count(*) from sluice.documents`); n != 0 {
		t.Errorf("%d documents are left", n)
	}
}

// TestFinishCut has the connection of a commit cut, again and again: row and event always agree, and another try brings both.
func TestFinishCut(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	db := connect(t, url)
	link := pgtest.NewLink(t, url)
	s := open(t, link.URL)
	add(t, s, draft("1", "first"))
	for i := range 16 {
		arrive(t, db, "1", fmt.Sprint("u", i), fmt.Sprint(i))
		claim := claimed(t, s)
		cut := make(chan struct{})
		go func() {
			defer close(cut)
			if i%4 == 0 {
				waitLocked(t, db)
			}
			link.Cut()
		}()
		if i%4 == 0 { // within the transaction, and not only somewhere around it
			tx := db.MustBegin()
			execute(t, tx, `select from sluice.logs where org = '1' for update`)
			_, _ = s.Append(context.Background(), []Item{{Change: &FinishDocument{Claim: claim, Document: Document{State: "done"}}}})
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
		} else {
			_, _ = s.Append(context.Background(), []Item{{Change: &FinishDocument{Claim: claim, Document: Document{State: "done"}}}})
		}
		<-cut
		const both = `select (select state from sluice.documents where upload = $1) = 'done',
			exists (select from sluice.events where id = 'upload-' || $1 || '-extracted')`
		var row, event bool
		if err := db.QueryRow(both, claim.Upload.ID).Scan(&row, &event); err != nil {
			t.Fatal(err)
		}
		if row != event {
			t.Fatalf("%s: done is %v, its event there %v", claim.Upload.ID, row, event)
		}
		wait(t, "another try", func() bool {
			answers, err := s.Append(context.Background(), []Item{{Change: &FinishDocument{Claim: claim, Document: Document{State: "done"}}}})
			return err == nil && answers[0].Err == nil
		})
		if err := db.QueryRow(both, claim.Upload.ID).Scan(&row, &event); err != nil || !row || !event {
			t.Fatalf("%s: done is %v, its event there %v, %v", claim.Upload.ID, row, event, err)
		}
	}
}

// TestKnownDocument finds what reading the same bytes has given, within the org and for the same kind alone.
func TestKnownDocument(t *testing.T) {
	t.Parallel()
	s, db := readers(t, 1)
	first := claimed(t, s)
	if known, err := s.KnownDocument(t.Context(), first); err != nil || known != nil {
		t.Fatalf("%+v, %v", known, err)
	}
	done := Document{State: "done", Text: "read", Fields: json.RawMessage(`{"a":{"value":"b"}}`), Confidence: 80}
	if _, err := settled(t, s, first, done); err != nil {
		t.Fatal(err)
	}
	arrive(t, db, "1", "same", "digest 0")
	same := claimed(t, s)
	if known, err := s.KnownDocument(t.Context(), same); err != nil || known == nil || known.Text != "read" || known.Confidence != 80 ||
		string(known.Fields) != string(done.Fields) || known.State != "done" {
		t.Errorf("%+v, %v", known, err)
	}
	for name, change := range map[string]func(*DocumentClaim){
		"another org":  func(c *DocumentClaim) { c.Upload.Org = "2" },
		"other bytes":  func(c *DocumentClaim) { c.Upload.SHA256 = []byte("x") },
		"another kind": func(c *DocumentClaim) { c.Upload.DocumentType = "visa" },
	} {
		other := *same
		change(&other)
		if known, err := s.KnownDocument(t.Context(), &other); err != nil || known != nil {
			t.Errorf("%s: %+v, %v", name, known, err)
		}
	}
}

// TestSharedKey has two instances ask for a key at once that nobody has made: both get the same one, and so does who comes later.
func TestSharedKey(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	db := connect(t, url)
	tx := db.MustBegin()
	execute(t, tx, `lock table sluice.keys in share mode`) // both find no key, and neither inserts one yet
	keys := make([][]byte, 2)
	var group sync.WaitGroup
	for i := range keys {
		s := open(t, url)
		group.Go(func() {
			var err error
			if keys[i], err = s.SharedKey(t.Context(), "links"); err != nil {
				t.Error(err)
			}
		})
	}
	wait(t, "both wait", func() bool {
		return ask[int](t, db, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 2
	})
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	s := open(t, url)
	third, err := s.SharedKey(t.Context(), "links")
	other, err2 := s.SharedKey(t.Context(), "other")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if len(third) != 32 || !bytes.Equal(keys[0], third) || !bytes.Equal(keys[1], third) || bytes.Equal(third, other) {
		t.Errorf("%x and %x, then %x; of another name %x", keys[0], keys[1], third, other)
	}
}
