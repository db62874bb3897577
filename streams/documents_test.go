package streams_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/prometheus/client_golang/prometheus"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
	"sluice/streams/ocr"
)

// readingRoom is a database with documents that are to be read, and whoever reads them.
type readingRoom struct {
	t        testing.TB
	database string
	db       *sqlx.DB

	read func(ctx context.Context, text string) (ocr.Result, error) // what a reading gives; nil: the text

	mu       sync.Mutex
	bytes    map[string]string // guarded by mu: of each upload, where they are not its id
	readings []*reading        // guarded by mu
}

// reading is one call of the reader.
type reading struct {
	text       string
	began, end time.Time
	ended      error // of its context, when it returned
}

func newReadingRoom(t testing.TB) *readingRoom {
	t.Helper()
	d := &readingRoom{t: t, database: pgtest.Database(t), bytes: map[string]string{}}
	var err error
	if d.db, err = sqlx.Open("postgres", d.database); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.db.Close() })
	return d
}

func (d *readingRoom) execute(query string, args ...any) {
	d.t.Helper()
	if _, err := d.db.Exec(query, args...); err != nil {
		d.t.Fatalf("%v: %s", err, query)
	}
}

// arrive writes an upload of org 1 that is ready, with its id as its bytes, and queues it.
func (d *readingRoom) arrive(id, documentType string) {
	d.t.Helper()
	digest := sha256.Sum256([]byte(d.text(id)))
	d.execute(`insert into sluice.uploads (id, org, user_id, filename, mime_type, document_type, size, byte_limit, held, position,
		sha256, state, expires) values ($1, '1', '7', 'a.png', 'image/png', $2, $3, $3, $3, $3, $4, 'ready', 'infinity')`,
		id, documentType, len(d.text(id)), digest[:])
	d.execute(`insert into sluice.documents (upload) values ($1)`, id)
}

func (d *readingRoom) text(id string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if text, other := d.bytes[id]; other {
		return text
	}
	return id
}

// Content implements streams.Contents.
func (d *readingRoom) Content(_ context.Context, upload store.Upload, from, length int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(d.text(upload.ID)[from : from+length])), nil
}

// Read implements streams.DocumentReader.
func (d *readingRoom) Read(ctx context.Context, path, mimeType, documentType string) (ocr.Result, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return ocr.Result{}, err
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		d.t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	one := &reading{text: string(text), began: time.Now()}
	d.mu.Lock()
	d.readings = append(d.readings, one)
	d.mu.Unlock()
	result := ocr.Result{
		Text: string(text), Confidence: 90,
		Fields: map[string]ocr.Field{"fullName": {Value: "a \x00 name", Confidence: 60, NeedsVerification: true}},
	}
	if d.read != nil {
		result, err = d.read(ctx, string(text))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	one.end, one.ended = time.Now(), ctx.Err()
	return result, err
}

// seen are the readings so far.
func (d *readingRoom) seen() (list []reading) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, one := range d.readings {
		list = append(list, *one)
	}
	return list
}

// times is how often each text was read.
func (d *readingRoom) times() map[string]int {
	count := map[string]int{}
	for _, one := range d.seen() {
		count[one.text]++
	}
	return count
}

// instance reads what waits until stop is called or the test ends. It reaches the database by url; "": directly.
func (d *readingRoom) instance(url string, options streams.DocumentOptions) (stop func()) {
	d.t.Helper()
	if url == "" {
		url = d.database
	}
	events, err := store.Open(context.Background(), store.Options{URL: url, Connections: 8})
	if err != nil {
		d.t.Fatal(err)
	}
	metrics := streams.NewMetrics(prometheus.NewRegistry(), store.DefaultCatalogue())
	appender := streams.NewAppender(events, metrics)
	options.Dir = d.t.TempDir()
	documents := streams.NewDocuments(events, appender, d, d, options, metrics, slog.New(slog.NewTextHandler(d.t.Output(), nil)))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { documents.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		appender.Close(context.Background())
		events.Close()
		if left, err := os.ReadDir(options.Dir); err != nil || len(left) > 0 {
			d.t.Errorf("left behind: %v, %v", left, err)
		}
	})
	d.t.Cleanup(stop)
	return stop
}

// row is what the database knows of a document.
type row struct {
	State, Content, Fields, Error string
	Attempts                      int
	Claim                         int64
	Confidence                    float64
	Events                        int // that tell of its end
}

func (d *readingRoom) row(id string) (r row) {
	d.t.Helper()
	err := d.db.Get(&r, `select state, content, fields::text as fields, error, attempts, claim, confidence, (select count(*) from sluice.events
		where entity_id = upload and type = 'document_extract' || case state when 'done' then 'ed' else '_failed' end) as events
		from sluice.documents where upload = $1`, id)
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// becomes waits until a document is in a state.
func (d *readingRoom) becomes(id, state string) row {
	d.t.Helper()
	eventually(d.t, id+" does not become "+state, func() bool { return d.row(id).State == state })
	return d.row(id)
}

// TestDocumentsAreReadOnce has two instances with three workers each read many documents: each is read once, and told once.
func TestDocumentsAreReadOnce(t *testing.T) {
	t.Parallel()
	d := newReadingRoom(t)
	const count = 40
	for i := range count {
		d.arrive(fmt.Sprint("u", i), "passport")
	}
	for range 2 {
		d.instance("", streams.DocumentOptions{Workers: 3})
	}
	for i := range count {
		got := d.becomes(fmt.Sprint("u", i), "done")
		want := row{
			State: "done", Content: fmt.Sprint("u", i), Attempts: 1, Claim: 1, Confidence: 90, Events: 1,
			Fields: `{"fullName":{"value":"a \u0000 name","confidence":60,"needsVerification":true}}`,
		}
		if got != want {
			t.Errorf("%+v", got)
		}
	}
	times := d.times()
	if len(times) != count || slices.Max(slices.Collect(maps.Values(times))) != 1 {
		t.Errorf("read: %v", times)
	}
}

// TestDocumentsOfNobody leaves documents to others where there are no workers.
func TestDocumentsOfNobody(t *testing.T) {
	t.Parallel()
	d := newReadingRoom(t)
	d.arrive("u", "passport")
	stop := d.instance("", streams.DocumentOptions{})
	stop()
	if got := d.row("u"); got.State != "queued" || got.Claim != 0 {
		t.Errorf("%+v", got)
	}
}

// TestDocumentsAreTriedAgain has readings fail for a while and for ever.
func TestDocumentsAreTriedAgain(t *testing.T) {
	t.Parallel()
	d := newReadingRoom(t)
	defect := errors.New("/a/path/of/ours does not answer")
	d.read = func(_ context.Context, text string) (ocr.Result, error) {
		switch {
		case text == "ever", text == "twice" && d.times()[text] < 3:
			return ocr.Result{}, defect
		case text == "long":
			return ocr.Result{}, fmt.Errorf("after 2m: %w", ocr.ErrTooLong)
		case text == "missing":
			return ocr.Result{}, fmt.Errorf("tesseract is %w", ocr.ErrMissing)
		case text == "unreadable":
			return ocr.Result{}, fmt.Errorf("%s: %w", defect, ocr.ErrUnreadable)
		case text == "large":
			return ocr.Result{}, fmt.Errorf("%s: %w", defect, ocr.ErrTooLarge)
		}
		return ocr.Result{Text: "read\x00 at\xff last"}, nil
	}
	const backoff = 300 * time.Millisecond // six of them are more than a worker sleeps where nobody wakes it
	states := map[string]string{
		"ever": "failed", "twice": "done", "long": "failed", "missing": "failed", "unreadable": "failed", "large": "failed",
	}
	for id := range states {
		d.arrive(id, "passport")
	}
	d.instance("", streams.DocumentOptions{Workers: 2, Backoff: backoff})
	for id, state := range states {
		got := d.becomes(id, state)
		attempts := 1
		if id == "ever" || id == "twice" || id == "long" {
			attempts = 3
		}
		if got.Attempts != attempts || d.times()[id] != attempts || got.Events != 1 {
			t.Errorf("%s: %+v, read %d times", id, got, d.times()[id])
		}
		if (state == "failed") != (got.Error != "") || strings.Contains(got.Error, "/a/path") {
			t.Errorf("%s: for clients it failed because %q", id, got.Error)
		}
	}
	if got := d.row("twice"); got.Content != "read at� last" || got.Error != "" {
		t.Errorf("%+v", got)
	}
	if got := d.row("missing"); !strings.Contains(got.Error, "tesseract") {
		t.Errorf("%+v", got)
	}
	var ends, begins []time.Time
	for _, one := range d.seen() {
		if one.text == "ever" {
			begins, ends = append(begins, one.began), append(ends, one.end)
		}
	}
	if first, second := begins[1].Sub(ends[0]), begins[2].Sub(ends[1]); first < backoff || second < 6*backoff {
		t.Errorf("tried again after %v and after %v", first, second)
	}
}

// TestSameBytesAreReadOnce has a file arrive again: what was read of it is given again, but not as another kind of document.
func TestSameBytesAreReadOnce(t *testing.T) {
	t.Parallel()
	d := newReadingRoom(t)
	d.bytes = map[string]string{"a": "same", "b": "same", "c": "same"}
	d.arrive("a", "passport")
	d.instance("", streams.DocumentOptions{Workers: 1})
	first := d.becomes("a", "done")
	d.arrive("b", "passport")
	second := d.becomes("b", "done")
	if second != first {
		t.Errorf("%+v, and then %+v", first, second)
	}
	if n := d.times()["same"]; n != 1 {
		t.Errorf("read %d times", n)
	}
	d.arrive("c", "visa")
	d.becomes("c", "done")
	if n := d.times()["same"]; n != 2 {
		t.Errorf("read %d times, once as something else", n)
	}
}

// TestBytesAreChecked has the store give other bytes than were verified: they are not read.
func TestBytesAreChecked(t *testing.T) {
	t.Parallel()
	d := newReadingRoom(t)
	d.arrive("u", "passport")
	d.bytes["u"] = "x"
	d.instance("", streams.DocumentOptions{Workers: 1, Backoff: time.Millisecond})
	if got := d.becomes("u", "failed"); got.Attempts != 3 || len(d.seen()) > 0 {
		t.Errorf("%+v, read %v", got, d.times())
	}
}

// TestDeadlyDocument has a document whose readers have died three times: nobody tries a fourth time.
func TestDeadlyDocument(t *testing.T) {
	t.Parallel()
	d := newReadingRoom(t)
	d.arrive("u", "passport")
	d.execute(`update sluice.documents set attempts = 3, claim = 3, state = 'running', due = now()`)
	d.instance("", streams.DocumentOptions{Workers: 1})
	if got := d.becomes("u", "failed"); got.Error == "" || len(d.seen()) > 0 {
		t.Errorf("%+v, read %v", got, d.times())
	}
}

// untilEnd is a reading that takes until its context ends.
func untilEnd(ctx context.Context, _ string) (ocr.Result, error) {
	<-ctx.Done()
	return ocr.Result{}, ctx.Err()
}

// TestDrainGivesBack ends an instance while it reads: the document is another one's at once, as if nothing had been.
func TestDrainGivesBack(t *testing.T) {
	t.Parallel()
	d := newReadingRoom(t)
	d.read = untilEnd
	d.arrive("u", "passport")
	stop := d.instance("", streams.DocumentOptions{Workers: 1})
	eventually(t, "nobody reads", func() bool { return len(d.seen()) == 1 })
	stop()
	if got := d.row("u"); got.State != "queued" || got.Attempts != 0 || got.Events != 0 {
		t.Errorf("%+v", got)
	}
	d.read = nil
	d.instance("", streams.DocumentOptions{Workers: 1})
	if got := d.becomes("u", "done"); got.Attempts != 1 || got.Claim != 2 {
		t.Errorf("%+v", got)
	}
}

// TestClaimsAreHeld reads for longer than a claim lasts that nobody renews, while another instance would take it.
func TestClaimsAreHeld(t *testing.T) {
	t.Parallel()
	d := newReadingRoom(t)
	const lease = 2 * time.Second
	d.read = func(ctx context.Context, text string) (ocr.Result, error) {
		select {
		case <-time.After(2 * lease):
		case <-ctx.Done():
		}
		return ocr.Result{Text: text}, ctx.Err()
	}
	d.arrive("u", "passport")
	for range 2 {
		d.instance("", streams.DocumentOptions{Workers: 1, Lease: lease})
	}
	if got := d.becomes("u", "done"); got.Claim != 1 || len(d.seen()) != 1 {
		t.Errorf("%+v, read %v", got, d.times())
	}
}

// TestStolenClaim takes a document away from whoever reads it: the reading ends, and nothing of it is kept.
func TestStolenClaim(t *testing.T) {
	t.Parallel()
	d := newReadingRoom(t)
	d.read = untilEnd
	d.arrive("u", "passport")
	const lease = 12 * time.Second // which is renewed every 3, and given up after 9
	stop := d.instance("", streams.DocumentOptions{Workers: 1, Lease: lease})
	eventually(t, "nobody reads", func() bool { return len(d.seen()) == 1 })
	stolen := time.Now()
	d.execute(`update sluice.documents set claim = claim + 1, due = now() + interval '1 hour'`)
	eventually(t, "the reading goes on", func() bool { return d.seen()[0].ended != nil })
	if took := time.Since(stolen); took > lease/2 {
		t.Errorf("it went on for %v", took)
	}
	stop()
	if got := d.row("u"); got.State != "running" || got.Attempts != 1 || got.Events != 0 {
		t.Errorf("%+v", got)
	}
}

// TestLostDatabase takes the database from one instance while it reads. Another one takes over once the claim has run out,
// and by then the first one's reading has ended: there are never two.
func TestLostDatabase(t *testing.T) {
	t.Parallel()
	d := newReadingRoom(t)
	link := pgtest.NewLink(t, d.database)
	d.read = untilEnd
	d.arrive("u", "passport")
	options := streams.DocumentOptions{Workers: 1, Lease: 2 * time.Second}
	d.instance(link.URL, options)
	eventually(t, "nobody reads", func() bool { return len(d.seen()) == 1 })
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			link.Cut()
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	stop := d.instance("", options)
	eventually(t, "nobody takes over", func() bool { return len(d.seen()) == 2 })
	close(over)
	<-done
	seen := d.seen()
	if seen[0].end.IsZero() || seen[1].began.Before(seen[0].end) {
		t.Errorf("two read at once: %v to %v, and from %v", seen[0].began, seen[0].end, seen[1].began)
	}
	stop()
}

// TestScratch shows that what a dead process has left is gone, and what a living one has is not.
func TestScratch(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	first, err := streams.OpenScratch(parent)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first.Dir+"/passport", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	left := parent + "/sluice-scratch-left"
	if err := os.MkdirAll(left+"/deep", 0o700); err != nil {
		t.Fatal(err)
	}
	second, err := streams.OpenScratch(parent)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("what was left is there: %v", err)
	}
	if text, err := os.ReadFile(first.Dir + "/passport"); err != nil || !bytes.Equal(text, []byte("secret")) {
		t.Errorf("%q, %v", text, err)
	}
	if info, err := os.Stat(second.Dir); err != nil || info.Mode().Perm() != 0o700 || second.Dir == first.Dir {
		t.Errorf("%v, %v", info, err)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(parent); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}
