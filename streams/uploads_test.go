package streams_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"sluice/store"
	"sluice/store/blobs"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// desk is one instance's uploads, upon a database and a directory that others may share.
type desk struct {
	*streams.Uploads
	t      testing.TB
	events *store.Store
	disk   *blobs.Disk
}

type deskOptions struct {
	url, dir string
	name     string
	policy   blobs.SyncPolicy
	limits   store.UploadLimits
	blobs    blobs.Store // nil: the directory
}

func openDesk(t testing.TB, o deskOptions) *desk {
	t.Helper()
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	events, err := store.Open(ctx, store.Options{URL: o.url, Migrate: true, Connections: 6, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { events.Close() })
	if o.policy == "" {
		o.policy = blobs.SyncComplete
	}
	disk, err := blobs.OpenDisk(o.dir, o.policy)
	if err != nil {
		t.Fatal(err)
	}
	metrics := streams.NewMetrics(prometheus.NewRegistry(), store.DefaultCatalogue())
	appender := streams.NewAppender(events, metrics)
	t.Cleanup(func() { appender.Close(ctx) })
	if o.limits.MaxSize == 0 {
		o.limits = store.UploadLimits{MaxSize: 100 << 20, Quota: 5 << 30, Open: 1000, Expiry: 24 * time.Hour}
	}
	if o.blobs == nil {
		o.blobs = disk
	}
	uploads := streams.NewUploads(events, o.blobs, appender, streams.UploadOptions{
		UploadLimits: o.limits, Instance: o.name, Log: log, Reads: func(mimeType, _ string) bool { return mimeType == "application/pdf" },
	}, metrics)
	t.Cleanup(func() { uploads.Close(ctx) })
	hub := streams.NewHub(events, store.DefaultCatalogue(), streams.Options{RingMemory: 1 << 20, BatchMax: 100, Heartbeat: time.Minute}, metrics)
	t.Cleanup(hub.Close)
	notifier := streams.NewNotifier(events, hub, log)
	notifier.Wanted = uploads.Wanted
	listening, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { notifier.Run(listening); close(done) }()
	t.Cleanup(func() { stop(); <-done })
	return &desk{uploads, t, events, disk}
}

// query runs statements in a database.
func query(t testing.TB, url, statements string) {
	t.Helper()
	if err := execute(url, statements); err != nil {
		t.Fatal(err)
	}
}

// aFile is one of a type that is taken, with bytes that nobody can guess.
func aFile(size int) []byte {
	file := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)})
	_, _ = source.Read(file)
	copy(file, "%PDF-1.7\n")
	return file
}

func digestOf(b []byte) *streams.Expected {
	sum := sha256.Sum256(b)
	return &streams.Expected{Algorithm: crypto.SHA256, Sum: sum[:]}
}

func (d *desk) create(size int64) string {
	d.t.Helper()
	upload, err := d.Create(context.Background(), store.NewUpload{Org: "1", User: "7", Filename: "a.pdf", Claimed: "application/pdf", Size: size})
	if err != nil {
		d.t.Fatal(err)
	}
	return upload.ID
}

// chunkAt is one request's bytes.
func chunkAt(id string, file []byte, from, to int) streams.Chunk {
	return streams.Chunk{
		Upload: id, Offset: int64(from), Length: int64(to - from), Body: bytes.NewReader(file[from:to]), Total: -1,
		Digest: digestOf(file[from:to]), Interrupt: func() {}, Repeatable: true,
	}
}

// content reads a ready upload back.
func (d *desk) content(id string) []byte {
	d.t.Helper()
	ctx := context.Background()
	upload, err := d.Find(ctx, id)
	if err != nil {
		d.t.Fatal(err)
	}
	body, err := d.Content(ctx, upload, 0, upload.Size)
	if err != nil {
		d.t.Fatal(err)
	}
	defer body.Close()
	file, err := io.ReadAll(body)
	if err != nil {
		d.t.Fatal(err)
	}
	return file
}

// arrived checks that an upload is ready and holds exactly the file.
func (d *desk) arrived(id string, file []byte) {
	d.t.Helper()
	upload, err := d.Find(context.Background(), id)
	if err != nil {
		d.t.Fatal(err)
	}
	sum := sha256.Sum256(file)
	if upload.State != store.UploadReady || !bytes.Equal(upload.SHA256, sum[:]) || upload.Size != int64(len(file)) {
		d.t.Fatalf("the upload is %s (%s), %d bytes with %x", upload.State, upload.Reason, upload.Size, upload.SHA256)
	}
	if got := d.content(id); !bytes.Equal(got, file) {
		d.t.Fatalf("%d bytes came back that are not those that were sent", len(got))
	}
}

// TestUploadChunks sends files in chunks of all sizes, under every policy.
func TestUploadChunks(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	for _, policy := range []blobs.SyncPolicy{blobs.SyncChunk, blobs.SyncComplete, blobs.SyncNone} {
		d := openDesk(t, deskOptions{url: url, dir: t.TempDir(), name: string(policy), policy: policy})
		for _, size := range []int{16, 1000, 64 << 10, 64<<10 + 1, 20<<20 + 3} {
			for _, chunk := range []int{7 << 20, 64 << 10, 1 << 30} {
				file := aFile(size)
				id := d.create(int64(size))
				for from := 0; from < size; from += chunk {
					to := min(size, from+chunk)
					receipt, err := d.Append(context.Background(), chunkAt(id, file, from, to))
					if err != nil {
						t.Fatalf("%s, %d bytes, chunk at %d: %v", policy, size, from, err)
					}
					if receipt.Upload.Offset != int64(to) {
						t.Fatalf("after %d bytes the upload stands at %d", to, receipt.Upload.Offset)
					}
				}
				d.arrived(id, file)
			}
		}
	}
}

// TestUploadTakeover has two instances write the same upload in turn, each letting go for the other.
func TestUploadTakeover(t *testing.T) {
	t.Parallel()
	url, dir := pgtest.Database(t), t.TempDir()
	desks := []*desk{openDesk(t, deskOptions{url: url, dir: dir, name: "a"}), openDesk(t, deskOptions{url: url, dir: dir, name: "b"})}
	file := aFile(3 << 20)
	id := desks[0].create(int64(len(file)))
	const chunk = 64 << 10
	for i, from := 0, 0; from < len(file); i, from = i+1, from+chunk {
		if _, err := desks[i%2].Append(context.Background(), chunkAt(id, file, from, from+chunk)); err != nil {
			t.Fatalf("chunk %d: %v", i, err)
		}
	}
	desks[0].arrived(id, file)
}

// TestUploadZombie has a writer go on that was taken over from: it is told, and nothing of it counts.
func TestUploadZombie(t *testing.T) {
	t.Parallel()
	url, dir := pgtest.Database(t), t.TempDir()
	a, b := openDesk(t, deskOptions{url: url, dir: dir, name: "a"}), openDesk(t, deskOptions{url: url, dir: dir, name: "b"})
	file, other := aFile(1<<20), aFile(1<<20+1)
	id := a.create(int64(len(file)))
	ctx := context.Background()
	if _, err := a.Append(ctx, chunkAt(id, file, 0, 100_000)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Append(ctx, chunkAt(id, file, 100_000, 200_000)); err != nil {
		t.Fatal(err)
	}
	var refused *streams.OffsetError
	_, err := a.Append(ctx, chunkAt(id, other, 100_000, 300_000))
	if !errors.As(err, &refused) || refused.Current < 200_000 {
		t.Fatalf("the zombie was answered %v", err)
	}
	if _, err := b.Append(ctx, chunkAt(id, file, 200_000, len(file))); err != nil && !errors.As(err, &refused) {
		t.Fatal(err)
	}
	b.finishWith(id, file)
	a.arrived(id, file)
}

// finishWith sends what is missing.
func (d *desk) finishWith(id string, file []byte) {
	d.t.Helper()
	upload, err := d.Settle(context.Background(), id, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if upload.State == store.UploadReady {
		return
	}
	if _, err := d.Append(context.Background(), chunkAt(id, file, int(upload.Offset), len(file))); err != nil {
		d.t.Fatal(err)
	}
}

// brokenBody gives some bytes and then an error, as a network does.
type brokenBody struct {
	from io.Reader
	why  error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	if errors.Is(err, io.EOF) {
		err = b.why
	}
	return n, err
}

// yielded says whether a request was refused since another instance has taken over, and was told rightly how far the upload is.
func yielded(err error, offset int) bool {
	var refused *streams.OffsetError
	return errors.Is(err, streams.ErrUploadYielded) && errors.As(err, &refused) && refused.Current == int64(offset)
}

// TestUploadAnyOrder is what uploads promise, whatever happens: what is acknowledged stays, what is stored is what was sent.
func TestUploadAnyOrder(t *testing.T) {
	t.Parallel()
	url, dir := pgtest.Database(t), t.TempDir()
	desks := []*desk{openDesk(t, deskOptions{url: url, dir: dir, name: "a"}), openDesk(t, deskOptions{url: url, dir: dir, name: "b"})}
	file := aFile(300_000)
	began := time.Now()
	rapid.Check(t, func(r *rapid.T) {
		if time.Since(began) > 15*time.Second {
			return // the rest is for machines that are faster
		}
		m := &anyOrder{T: r, id: desks[0].create(int64(len(file))), file: file}
		for m.acknowledged < len(file) {
			d := desks[rapid.IntRange(0, 1).Draw(r, "desk")]
			to := min(len(file), m.acknowledged+rapid.IntRange(1, 100_000).Draw(r, "length"))
			m.step(d, rapid.SampledFrom([]string{"good", "good", "cut", "prefix", "wrong", "gap", "again", "look"}).Draw(r, "what"), to)
		}
		desks[1].arrived(m.id, file)
		if err := desks[0].Abort(context.Background(), m.id); err != nil {
			r.Fatal(err)
		}
	})
}

// anyOrder is an upload to which anything happens.
type anyOrder struct {
	*rapid.T
	id           string
	file         []byte
	acknowledged int
}

// step sends the bytes up to an offset, in one way or another, and checks how far the upload is then.
func (m *anyOrder) step(d *desk, what string, to int) {
	ctx := context.Background()
	c := chunkAt(m.id, m.file, m.acknowledged, to)
	half := m.acknowledged + (to-m.acknowledged)/2
	cut := errors.New("the network is gone")
	reaches := m.acknowledged
	good := func(error) bool { return false }
	var refused *streams.OffsetError
	switch what {
	case "good":
		good, reaches = func(err error) bool { return err == nil }, to
	case "cut":
		c.Body = &brokenBody{bytes.NewReader(m.file[m.acknowledged:half]), cut}
		good = func(err error) bool { return errors.Is(err, cut) }
	case "prefix":
		c.Body, c.Digest = &brokenBody{bytes.NewReader(m.file[m.acknowledged:half]), cut}, nil
		good, reaches = func(err error) bool { return errors.Is(err, cut) }, half
	case "wrong":
		c.Digest = digestOf([]byte("something else"))
		good = func(err error) bool { return errors.As(err, new(*streams.DigestError)) }
	case "gap":
		c.Offset, c.Length, c.Body = c.Offset+1, int64(half-m.acknowledged), bytes.NewReader(m.file[m.acknowledged+1:])
		good = func(err error) bool {
			return errors.As(err, &refused) && refused.Current == int64(m.acknowledged) || errors.As(err, new(*streams.SizeError))
		}
	case "again":
		c = chunkAt(m.id, m.file, 0, min(m.acknowledged, 10))
		good = func(err error) bool { return err == nil || errors.As(err, &refused) }
	case "look":
		upload, err := d.Settle(ctx, m.id, nil)
		if err != nil || upload.Offset != int64(m.acknowledged) {
			m.Fatalf("the upload is at %d, not %d: %v", upload.Offset, m.acknowledged, err)
		}
		if upload, err = d.Find(ctx, m.id); err != nil || upload.Offset != int64(m.acknowledged) {
			m.Fatalf("whoever looks is told %d, not %d: %v", upload.Offset, m.acknowledged, err)
		}
		return
	}
	receipt, err := d.Append(ctx, c)
	if yielded(err, m.acknowledged) {
		return // it was fenced, and knows where the upload is
	}
	if !good(err) || receipt.Upload.Offset != int64(reaches) {
		m.Fatalf("%s: %v, and the upload is at %d, not %d", what, err, receipt.Upload.Offset, reaches)
	}
	m.acknowledged = reaches
}

// TestUploadRepeated sends a chunk again whose answer was lost.
func TestUploadRepeated(t *testing.T) {
	t.Parallel()
	d := openDesk(t, deskOptions{url: pgtest.Database(t), dir: t.TempDir(), name: "a"})
	ctx := context.Background()
	file := aFile(200_000)
	id := d.create(int64(len(file)))
	for _, range_ := range [][2]int{{0, 100_000}, {0, 100_000}, {100_000, 200_000}, {100_000, 200_000}} {
		if _, err := d.Append(ctx, chunkAt(id, file, range_[0], range_[1])); err != nil {
			t.Fatal(range_, err)
		}
	}
	d.arrived(id, file)
	c := chunkAt(id, file, 100_000, 200_000)
	c.Digest = digestOf([]byte("other"))
	var refused *streams.OffsetError
	if _, err := d.Append(ctx, c); !errors.As(err, &refused) || !refused.Conflict {
		t.Errorf("the same range with another digest: %v", err)
	}
	c.Digest, c.Body = nil, bytes.NewReader(file[100_000:])
	if _, err := d.Append(ctx, c); !errors.As(err, &refused) || refused.Conflict {
		t.Errorf("the same range without a digest: %v", err)
	}
	if receipt, err := d.Append(ctx, streams.Chunk{Upload: id, Offset: 200_000, Total: -1, Final: true}); err != nil || !receipt.Repeated {
		t.Errorf("an empty last chunk: %+v, %v", receipt, err)
	}
}

// TestUploadNewerRequest has a request take over from an older one on the same instance and on another.
func TestUploadNewerRequest(t *testing.T) {
	t.Parallel()
	url, dir := pgtest.Database(t), t.TempDir()
	a, b := openDesk(t, deskOptions{url: url, dir: dir, name: "a"}), openDesk(t, deskOptions{url: url, dir: dir, name: "b"})
	file := aFile(200_000)
	ctx := context.Background()
	for _, newer := range []*desk{a, b} {
		id := a.create(int64(len(file)))
		body, writer := io.Pipe()
		interrupted := make(chan struct{})
		var once sync.Once
		c := chunkAt(id, file, 0, len(file))
		c.Digest, c.Body = nil, body
		c.Interrupt = func() { once.Do(func() { writer.CloseWithError(errors.New("interrupted")); close(interrupted) }) }
		older := make(chan error, 1)
		go func() {
			_, err := a.Append(ctx, c)
			older <- err
		}()
		if _, err := writer.Write(file[:150_000]); err != nil {
			t.Fatal(err)
		}
		upload, err := newer.Settle(ctx, id, nil)
		if err != nil {
			t.Fatal(err)
		}
		<-interrupted
		if err := <-older; !errors.Is(err, streams.ErrUploadYielded) {
			t.Fatalf("the older request: %v", err)
		}
		if upload.Offset == 0 || upload.Offset > 150_000 {
			t.Fatalf("the upload is at %d", upload.Offset)
		}
		newer.finishWith(id, file)
		newer.arrived(id, file)
	}
}

// TestUploadFails: what is not what was said has failed for good, its bytes are gone, and the log says so.
func TestUploadFails(t *testing.T) {
	t.Parallel()
	d := openDesk(t, deskOptions{url: pgtest.Database(t), dir: t.TempDir(), name: "a"})
	ctx := context.Background()
	file := aFile(1000)
	text := []byte("this is no picture, whatever its name says")
	for name, made := range map[string]struct {
		made store.NewUpload
		file []byte
	}{
		"digest": {store.NewUpload{Declared: digestOf(text).Sum}, file},
		"claim":  {store.NewUpload{Claimed: "image/png"}, file},
		"type":   {store.NewUpload{}, text},
		"empty":  {store.NewUpload{Claimed: "application/pdf"}, nil},
	} {
		made.made.Org, made.made.User, made.made.Filename, made.made.Size = "1", "7", name, int64(len(made.file))
		upload, err := d.Create(ctx, made.made)
		if made.file != nil {
			if err != nil {
				t.Fatal(name, err)
			}
			_, err = d.Append(ctx, chunkAt(upload.ID, made.file, 0, len(made.file)))
		}
		var failed *streams.FailedError
		if !errors.As(err, &failed) || failed.Upload.State != store.UploadFailed || failed.Upload.Reason == "" || failed.Digest != (name == "digest") {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := d.Append(ctx, chunkAt(failed.Upload.ID, file, 0, len(file))); !errors.Is(err, streams.ErrUploadGone) {
			t.Errorf("%s: more for a failed upload: %v", name, err)
		}
		if err := d.disk.Uploads(ctx, func(upload string, _ time.Time) error { return fmt.Errorf("%s has bytes", upload) }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	page, err := d.events.Page(ctx, "1", 0, time.Time{}, 100)
	if err != nil || len(page.Events) != 4 || slices.ContainsFunc(page.Events, func(e store.Event) bool { return e.Type != "upload_failed" }) {
		t.Errorf("the log has %+v (%v)", page.Events, err)
	}
}
