package streams

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"sluice/store"
	"sluice/store/blobs"
)

// UploadLog is the part of the store that keeps uploads; its contract is that of store.Store.
type UploadLog interface {
	CreateUpload(ctx context.Context, made store.NewUpload, limits store.UploadLimits) (store.Upload, error)
	Upload(ctx context.Context, id string) (store.Upload, error)
	UploadSegments(ctx context.Context, id string) ([]store.UploadSegment, error)
	UploadChunks(ctx context.Context, id string) ([]byte, error)
	JoinedUpload(ctx context.Context, org, user string, parts []string) (store.Upload, error)
	ClaimUpload(ctx context.Context, id, instance string, epoch int64, state store.UploadState) (store.ClaimedUpload, error)
	RecordUpload(ctx context.Context, record *store.UploadRecord) error
	RenewUpload(ctx context.Context, id string, epoch int64) error
	WantUpload(ctx context.Context, id, instance string) error
	DeleteUpload(ctx context.Context, id string) error
	ExpiringUploads(ctx context.Context, limit int) ([]string, error)
	OrphanedUploads(ctx context.Context, limit int) ([]store.Upload, error)
	NeededUploads(ctx context.Context, ids []string) ([]string, error)
	ForgetUploads(ctx context.Context, after time.Duration) error
	SharedKey(ctx context.Context, name string) ([]byte, error)
}

// Changer commits changes of state with what the log says of them; its contract is that of Appender.Change.
type Changer interface {
	Change(ctx context.Context, change store.Change) ([]store.Appended, error)
}

// UploadOptions are the settings of uploads.
type UploadOptions struct {
	store.UploadLimits
	Instance string // names this process among those that live

	// Reads says whether OCR is to read an upload of these types.
	Reads func(mimeType, documentType string) bool
	Log   *slog.Logger
}

const (
	yieldPatience = time.Second            // that a request waits for an older one here
	letGoPatience = 500 * time.Millisecond // that another instance is waited for, before it is fenced
	letGoLook     = 10 * time.Millisecond  // between two looks whether it has
	finishMost    = 10 * time.Minute       // of a verification, whoever waits for it
	freshFor      = time.Second            // that a writer takes itself for the writer without asking
)

// Uploads takes the bytes of uploads, one writer each at a time among all instances. It is safe for concurrent use.
//
// An upload that is being written has a session here, which knows it without asking the database; what a chunk is
// acknowledged by is the store of bytes, where that remembers (blobs.Store.Remembers), or else the upload's row. What keeps two
// writers apart is the epoch: a newcomer raises it, fences what its predecessor wrote, and goes on from what counts.
type Uploads struct {
	log     UploadLog
	blobs   blobs.Store
	changer Changer
	options UploadOptions
	metrics *UploadMetrics

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	beside sync.WaitGroup // what goes on after its request

	mu       sync.Mutex
	closed   bool                // guarded by mu
	sessions map[string]*session // guarded by mu; by id
}

// NewUploads makes the uploads of this process. Run keeps them in order, Close ends them.
func NewUploads(log UploadLog, bytes blobs.Store, changer Changer, options UploadOptions, metrics *Metrics) *Uploads {
	ctx, cancel := context.WithCancel(context.Background())
	return &Uploads{
		log: log, blobs: bytes, changer: changer, options: options, metrics: &metrics.Uploads,
		ctx: ctx, cancel: cancel, sessions: map[string]*session{},
	}
}

// Options are the settings in force.
func (u *Uploads) Options() UploadOptions { return u.options }

// LinkKey is what links to uploads are signed with, on every instance.
func (u *Uploads) LinkKey(ctx context.Context) ([]byte, error) { return u.log.SharedKey(ctx, "links") }

// Create makes an upload. One of size 0 is finished at once, and one that joins others takes their bytes in: its answer is
// Append's then. The same parts joined again are the same upload.
func (u *Uploads) Create(ctx context.Context, made store.NewUpload) (store.Upload, error) {
	if made.Kind != store.UploadPartial && made.Claimed != "" && !allowedType(made.Claimed) {
		return store.Upload{}, ErrNoMediaType
	}
	if made.Size > u.options.MaxSize {
		return store.Upload{}, &SizeError{Limit: u.options.MaxSize}
	}
	if made.Kind == store.UploadJoined {
		return u.join(ctx, made)
	}
	upload, err := u.log.CreateUpload(ctx, made, u.options.UploadLimits)
	if err != nil || made.Size != 0 {
		return upload, err
	}
	receipt, err := u.Append(ctx, Chunk{Upload: upload.ID, Total: -1})
	return receipt.Upload, err
}

// Find gives an upload as it stands, and disturbs nobody who writes it. While bytes come it may be behind by half a second.
func (u *Uploads) Find(ctx context.Context, id string) (store.Upload, error) {
	return u.log.Upload(ctx, id)
}

// Known gives an upload for what never changes of it: whose it is, and of what kind. It asks nobody where the upload is
// being written here; what it says of the rest may be old.
func (u *Uploads) Known(ctx context.Context, id string) (store.Upload, error) {
	u.mu.Lock()
	s := u.sessions[id]
	u.mu.Unlock()
	if s != nil {
		if upload := s.shown.Load(); upload != nil {
			return *upload, nil
		}
	}
	return u.log.Upload(ctx, id)
}

// Settle stops whoever writes an upload, here or elsewhere, keeps what it may keep, and gives the upload as it stands then. Where
// every byte is there, for the request that brought the last one has ended before its answer, it is finished as by Append,
// if permit allows it (Chunk.Permit); a nil permit leaves it as it is.
func (u *Uploads) Settle(ctx context.Context, id string, permit func() error) (store.Upload, error) {
	s, err := u.enter(ctx, id)
	if err != nil {
		return store.Upload{}, err
	}
	defer u.leave(s)
	if err = u.confirm(ctx, s); err == nil {
		err = u.own(ctx, s)
	}
	var over *overError
	if errors.As(err, &over) {
		if over.upload.State == store.UploadVerifying {
			return over.upload, ErrUploadBusy
		}
		return over.upload, nil
	}
	if err != nil {
		return store.Upload{}, err
	}
	if s.upload.Offset != s.recordedOffset { // whoever is told of it may look at the progress next
		if err := u.record(ctx, s, nil); err != nil {
			return u.failed(ctx, s, s.upload.Offset, store.Upload{}, err)
		}
	}
	if permit == nil || !s.upload.Whole() {
		return s.upload, nil
	}
	if err := permit(); err != nil {
		return s.upload, err
	}
	upload, err := u.finish(ctx, s)
	if err != nil {
		upload, err = u.failed(ctx, s, s.upload.Offset, upload, err)
	}
	return upload, err
}

// Abort deletes an upload, whatever its state: its bytes are gone, and its writer is refused. Doing it twice is no error.
func (u *Uploads) Abort(ctx context.Context, id string) error {
	s, err := u.enter(ctx, id)
	if err != nil {
		return err
	}
	defer u.leave(s)
	s.disown()
	err = u.log.DeleteUpload(ctx, id)
	if errors.Is(err, store.ErrUploadMoved) {
		return ErrUploadBusy
	}
	if err != nil {
		return err
	}
	u.metrics.Ended.WithLabelValues(string(store.UploadDeleted)).Inc()
	// If we stop here, the leftover is found later.
	u.discard(ctx, id)
	return nil
}

// discard deletes bytes that nobody needs. Where that fails they are leftovers, which are looked for.
func (u *Uploads) discard(ctx context.Context, id string) {
	if err := u.blobs.Delete(context.WithoutCancel(ctx), id); err != nil {
		u.options.Log.Warn("the bytes of an upload that is over cannot be deleted for now", "upload", id, "err", err)
	}
}

// Content reads length bytes of an upload that is ready, from an offset. ErrNotReady before that, ErrUploadGone after.
func (u *Uploads) Content(ctx context.Context, upload store.Upload, from, length int64) (io.ReadCloser, error) {
	switch upload.State {
	case store.UploadReady:
	case store.UploadUploading, store.UploadVerifying:
		return nil, ErrNotReady
	default:
		return nil, ErrUploadGone
	}
	segments, err := u.log.UploadSegments(ctx, upload.ID)
	if err != nil {
		return nil, err
	}
	return u.blobs.Open(ctx, upload.ID, extentsOf(segments), from, length)
}

func extentsOf(segments []store.UploadSegment) []blobs.Extent {
	extents := make([]blobs.Extent, len(segments))
	for i := range segments {
		extents[i] = extentOf(&segments[i])
	}
	return extents
}

func extentOf(segment *store.UploadSegment) blobs.Extent {
	return blobs.Extent{Start: segment.Start, Epoch: segment.Epoch, Size: segment.Size, Mark: segment.Mark}
}

// Wanted lets go of an upload that another instance wants to write.
func (u *Uploads) Wanted(id, by string) {
	if by == u.options.Instance {
		return
	}
	u.mu.Lock()
	_, here := u.sessions[id]
	here = here && !u.closed
	if here {
		u.beside.Add(1)
	}
	u.mu.Unlock()
	if !here {
		return
	}
	go func() {
		defer u.beside.Done()
		s, err := u.enter(u.ctx, id)
		if err != nil {
			return // it is being verified, or we close
		}
		defer u.leave(s)
		u.release(u.ctx, s)
	}()
}

// Close lets go of every upload. Requests for them must have ended; what comes later is refused.
func (u *Uploads) Close(ctx context.Context) {
	u.mu.Lock()
	u.closed = true
	ids := make([]string, 0, len(u.sessions))
	for id := range u.sessions {
		ids = append(ids, id)
	}
	u.mu.Unlock()
	for _, id := range ids {
		if s, err := u.enter(ctx, id); err == nil {
			u.release(ctx, s)
			u.leave(s)
		}
	}
	u.cancel()
	u.beside.Wait()
}
