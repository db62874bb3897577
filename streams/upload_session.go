package streams

import (
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/store"
	"sluice/store/blobs"
)

const (
	recordBytes  = 16 << 20               // that the row may be behind; a new segment tells it, too
	recordEvery  = 500 * time.Millisecond // that the row may be behind while bytes come
	rememberMost = 32                     // chunks by which a repetition is known
	chunkRecord  = 8 + 8 + sha256.Size
)

// session is an upload that is, or may be, written here. Whoever has the turn works with it alone.
type session struct {
	id   string
	turn chan struct{} // holds one: the turn is taken

	shown atomic.Pointer[store.Upload] // what Known tells; nil: nothing yet

	mu   sync.Mutex
	next int64  // guarded by mu: the number of the newest request
	stop func() // guarded by mu: interrupts the one that has the turn; nil: that cannot be interrupted

	// All below belongs to whoever has the turn.
	dropped bool // another session has taken its place
	number  int64
	owned   bool // this process is the writer, in upload.Epoch
	upload  store.Upload
	digest  hash.Hash // of the whole; ahead of state by what is written and not committed
	state   []byte    // of the digest at upload.Offset
	chunks  []blobs.Chunk
	used    time.Time
	writing prometheus.Gauge // counts it while it is owned

	segments []store.UploadSegment
	segment  blobs.Segment // the last of segments, open; nil: none
	written  int64         // in it, committed or not
	fresh    int           // segments before it are in the row as they are here
	sealing  chan sealed   // the outcome of sealing the one before the last; nil: nothing is being sealed

	recording      chan error // the outcome of writing the row beside; nil: it is not being written
	unrecorded     error      // why that has failed: the row does not know the last segment
	recorded       time.Time  // when the row was written
	recordedOffset int64
}

type sealed struct {
	at   int // in segments
	mark []byte
	err  error
}

// enter gives the turn at an upload, once whoever has it has let go: a newer request interrupts the older ones.
func (u *Uploads) enter(ctx context.Context, id string) (*session, error) {
	patience := time.NewTimer(yieldPatience)
	defer patience.Stop()
	for {
		u.mu.Lock()
		s := u.sessions[id]
		if s == nil {
			s = &session{id: id, turn: make(chan struct{}, 1)}
			u.sessions[id] = s
		}
		u.mu.Unlock()
		number := s.arrive()
		select {
		case s.turn <- struct{}{}:
		case <-patience.C:
			return nil, ErrUploadBusy
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !s.dropped {
			s.number = number
			return s, nil
		}
		<-s.turn
	}
}

// arrive interrupts an older request, and gives the number of this one.
func (s *session) arrive() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	if s.stop != nil {
		s.stop()
	}
	return s.next
}

// begin says how the request that has the turn is interrupted. It is false where a newer one waits already.
func (s *session) begin(interrupt func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next > s.number {
		return false
	}
	s.stop = interrupt
	return true
}

// end says that the request cannot be interrupted any more; it tells whether a newer one waits.
func (s *session) end() (yielded bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = nil
	return s.next > s.number
}

// leave gives the turn back after a request.
func (u *Uploads) leave(s *session) {
	s.used = time.Now()
	u.pass(s)
}

// pass gives the turn back. A session that writes nothing goes.
func (u *Uploads) pass(s *session) {
	s.end()
	if !s.owned {
		u.mu.Lock()
		s.dropped = true
		delete(u.sessions, s.id)
		u.mu.Unlock()
	}
	<-s.turn
}

// overError says that an upload is not being uploaded any more.
type overError struct{ upload store.Upload }

func (e *overError) Error() string { return "the upload is " + string(e.upload.State) }

// own makes this process the upload's writer, wherever another one is. An upload that takes no bytes any more is an overError.
func (u *Uploads) own(ctx context.Context, s *session) error {
	if s.owned {
		return nil
	}
	for try := 0; ; try++ {
		upload, err := u.log.Upload(ctx, s.id)
		if err == nil && upload.State == store.UploadUploading && upload.Owner != u.options.Instance && writes(&upload) {
			upload, err = u.await(ctx, s.id)
		}
		if err != nil {
			return err
		}
		if upload.State == store.UploadVerifying && !upload.Leased {
			// Whoever verified it has died.
			if err := u.resume(context.WithoutCancel(ctx), upload); err != nil {
				return err
			}
			continue
		}
		if s.upload = upload; upload.State != store.UploadUploading {
			return &overError{upload}
		}
		claimed, err := u.log.ClaimUpload(ctx, s.id, u.options.Instance, upload.Epoch, store.UploadUploading)
		if err == nil {
			err = u.inherit(ctx, s, &claimed)
		}
		if errors.Is(err, store.ErrUploadMoved) && try < 3 {
			continue // another newcomer was faster, or it is over
		}
		if errors.Is(err, store.ErrUploadMoved) {
			return ErrUploadBusy
		}
		return err
	}
}

// confirm finds out whether this process is still the writer, before anybody is told from memory how far the upload is.
func (u *Uploads) confirm(ctx context.Context, s *session) error {
	if !s.owned {
		return nil
	}
	upload, err := u.log.Upload(ctx, s.id)
	if err == nil && (upload.Epoch != s.upload.Epoch || upload.State != store.UploadUploading) {
		s.disown()
	}
	return err
}

// writes says whether there is an instance that may be asked to let go. Where bytes come slowly it renews no lease.
func writes(upload *store.Upload) bool {
	return upload.Owner != "" && (upload.Leased || upload.Lives)
}

// await asks the instance that writes to let go, and waits until it has, or has had the time to.
func (u *Uploads) await(ctx context.Context, id string) (upload store.Upload, err error) {
	if err := u.log.WantUpload(ctx, id, u.options.Instance); err != nil {
		return upload, err
	}
	until := time.Now().Add(letGoPatience)
	for {
		upload, err = u.log.Upload(ctx, id)
		if err != nil || !writes(&upload) || time.Now().After(until) {
			return upload, err
		}
		select {
		case <-time.After(letGoLook):
		case <-ctx.Done():
			return upload, ctx.Err()
		}
	}
}

// inherit ends what earlier writers began, takes over what counts of it, and writes that down.
func (u *Uploads) inherit(ctx context.Context, s *session, claimed *store.ClaimedUpload) error {
	s.upload, s.state, s.chunks = claimed.Upload, claimed.DigestState, readChunks(claimed.Chunks)
	s.segments = nil
	at, cut := int64(0), false
	for i := range claimed.Segments {
		segment := claimed.Segments[i]
		if !segment.Sealed || u.blobs.Rereads() && !segment.Synced {
			extent, notes, err := u.blobs.Inherit(ctx, s.id, extentOf(&segment))
			if errors.Is(err, blobs.ErrShort) {
				// A power cut has taken bytes that were acknowledged. What lies before this segment is whole.
				u.options.Log.Warn("an upload goes back: bytes that were not synced are lost", "upload", s.id, "from", s.upload.Offset, "to", segment.Start)
				s.state, cut = segment.DigestState, true
				break
			}
			if err != nil {
				return errors.Join(ErrStorage, err)
			}
			for _, note := range notes {
				s.state = note.State
				s.remember(note.Chunk)
			}
			segment.Size, segment.Mark, segment.Sealed = extent.Size, extent.Mark, true
		}
		if segment.Size > 0 {
			s.segments = append(s.segments, segment)
		}
		at = segment.Start + segment.Size
	}
	s.upload.Offset = at
	if cut {
		s.forget(at)
	}
	if err := u.restore(ctx, s); err != nil {
		return err
	}
	known := s.upload
	s.shown.Store(&known)
	s.owned, s.fresh, s.recorded, s.recordedOffset = true, 0, time.Now(), at
	u.metrics.Writing.Inc()
	s.writing = u.metrics.Writing
	if claimed.Epoch > 1 {
		u.metrics.Takeovers.Inc()
	}
	err := u.record(ctx, s, func(r *store.UploadRecord) { r.Cut = true })
	if err != nil {
		s.disown() // nobody else would cut off what the row still has
	}
	return err
}

// restore brings the digest to where the committed bytes end. A state that cannot be read, of another version of Go's
// library perhaps, is made again from the bytes.
func (u *Uploads) restore(ctx context.Context, s *session) error {
	s.digest = sha256.New()
	if s.upload.Offset == 0 {
		s.state = nil
		return nil
	}
	err := s.digest.(encoding.BinaryUnmarshaler).UnmarshalBinary(s.state)
	if err == nil {
		return nil
	}
	s.digest.Reset()
	body, err := u.blobs.Open(ctx, s.id, extentsOf(s.segments), 0, s.upload.Offset)
	if err == nil {
		defer body.Close()
		_, err = io.Copy(s.digest, body)
	}
	if err == nil {
		s.state, err = s.digest.(encoding.BinaryAppender).AppendBinary(s.state[:0])
	}
	return err
}

// segmentFor makes sure that there is a segment to write to.
func (u *Uploads) segmentFor(ctx context.Context, s *session) error {
	if s.segment != nil && (u.blobs.SegmentBytes() == 0 || s.written < u.blobs.SegmentBytes()) {
		return nil
	}
	if err := u.seal(s); err != nil {
		return err
	}
	segment, err := u.blobs.Create(ctx, s.id, s.upload.Offset, s.upload.Epoch)
	if err != nil {
		return errors.Join(ErrStorage, err)
	}
	s.segment, s.written = segment, 0
	s.segments = append(s.segments, store.UploadSegment{Start: s.upload.Offset, Epoch: s.upload.Epoch, DigestState: append([]byte(nil), s.state...)})
	u.recordBeside(ctx, s)
	return nil
}

// seal ends the open segment; its bytes are synced beside what follows. One such sync at a time keeps what is not on the
// disk yet bounded.
func (u *Uploads) seal(s *session) error {
	if s.segment == nil {
		return nil
	}
	if err := s.sealedBefore(); err != nil {
		return err
	}
	segment, at, outcome := s.segment, len(s.segments)-1, make(chan sealed, 1)
	s.segment, s.sealing = nil, outcome
	u.beside.Go(func() {
		mark, err := segment.Seal(context.WithoutCancel(u.ctx))
		outcome <- sealed{at, mark, err}
	})
	return nil
}

// errUnsynced says that bytes which were acknowledged may not be on the disk, and that nobody can find out: the system tells
// of a sync that failed once, and reads what it could not write back from memory as if nothing were wrong.
var errUnsynced = errors.New("acknowledged bytes cannot be synced")

// unsynced adds errUnsynced to an error of blobs where that is what it means. A store that did not answer, or a file that
// could not be opened for now, has lost nothing.
func unsynced(err error) error {
	if errors.Is(err, blobs.ErrUnsynced) {
		return fmt.Errorf("%w: %w", errUnsynced, err)
	}
	return err
}

// sealedBefore waits for the segment that is being sealed.
func (s *session) sealedBefore() error {
	if s.sealing == nil {
		return nil
	}
	outcome := <-s.sealing
	s.sealing = nil
	if outcome.err != nil {
		return unsynced(outcome.err)
	}
	segment := &s.segments[outcome.at]
	segment.Mark, segment.Sealed, segment.Synced = outcome.mark, true, true
	s.fresh = min(s.fresh, outcome.at)
	return nil
}

// commit makes what was written count.
func (u *Uploads) commit(ctx context.Context, s *session, chunk blobs.Chunk, needRow bool) error {
	// The row knows the segment before a byte of it counts: a successor has to find it.
	if err := s.recordedBeside(); err != nil {
		return err
	}
	last := &s.segments[len(s.segments)-1]
	state, err := s.digest.(encoding.BinaryAppender).AppendBinary(s.state[:0])
	if err != nil {
		return err
	}
	mark, err := s.segment.Commit(ctx, blobs.Note{Size: s.written, State: state, Chunk: chunk})
	if err != nil {
		return err
	}
	s.state = state
	s.remember(chunk)
	u.metrics.Bytes.Add(float64(s.written - last.Size))
	last.Size, last.Mark = s.written, mark
	s.upload.Offset = last.Start + last.Size
	s.fresh = min(s.fresh, len(s.segments)-1)
	// If we stop here, the bytes count where the store remembers, and the client was not told: its next request is.
	if needRow || !u.blobs.Remembers() || s.upload.Offset-s.recordedOffset >= recordBytes || time.Since(s.recorded) >= recordEvery {
		return u.record(ctx, s, nil)
	}
	return nil
}

// release writes down how far an upload has come and lets go of it.
func (u *Uploads) release(ctx context.Context, s *session) {
	if !s.owned {
		return
	}
	err := s.sealedBefore()
	if err != nil {
		_, err = u.spoil(ctx, s, err)
	} else {
		err = u.record(ctx, s, func(r *store.UploadRecord) { r.Release = true })
	}
	if err != nil && !errors.Is(err, store.ErrUploadMoved) {
		u.options.Log.Debug("an upload was let go without a word in its row", "upload", s.id, "err", err)
	}
	s.disown()
}

// disown forgets all that this process knows as the upload's writer. Whoever writes it next finds what counts.
func (s *session) disown() {
	if s.owned {
		s.writing.Dec()
	}
	s.owned = false
	_ = s.recordedBeside()
	s.unrecorded = nil
	if s.sealing != nil {
		<-s.sealing
		s.sealing = nil
	}
	if s.segment != nil {
		_ = s.segment.Close()
		s.segment = nil
	}
}
