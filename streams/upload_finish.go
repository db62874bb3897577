package streams

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"io"
	"slices"
	"time"

	"sluice/store"
	"sluice/store/blobs"
)

// renewEvery is how often whoever verifies says so; the store waits some times as long.
const renewEvery = 300 * time.Millisecond

// finish verifies an upload whose bytes are all here, and says in the log what has become of it: ready, or failed.
func (u *Uploads) finish(ctx context.Context, s *session) (store.Upload, error) {
	// A client that is gone asks again, and finds what has become of it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishMost)
	defer cancel()
	defer s.disown()
	err := u.seal(s)
	if err == nil {
		err = s.sealedBefore()
	}
	if err != nil {
		return s.upload, err
	}
	// If we stop here, the upload is one that was interrupted before its last request ended.
	if err := u.record(ctx, s, func(r *store.UploadRecord) { r.State = store.UploadVerifying }); err != nil {
		return s.upload, err
	}
	// If we stop here, whoever asks for the upload next verifies it, or else whoever looks for those left behind.
	claimed := store.ClaimedUpload{Upload: s.upload, DigestState: s.state, Segments: s.segments}
	return u.conclude(ctx, &claimed)
}

// spoil ends an upload whose bytes may be lost.
func (u *Uploads) spoil(ctx context.Context, s *session, why error) (store.Upload, error) {
	ctx = context.WithoutCancel(ctx)
	defer s.disown()
	u.options.Log.Error("an upload fails", "upload", s.id, "err", why)
	if err := u.record(ctx, s, func(r *store.UploadRecord) { r.State = store.UploadVerifying }); err != nil {
		return s.upload, err
	}
	return u.commitOutcome(ctx, &store.ClaimedUpload{Upload: s.upload}, &store.FinishUpload{
		ID: s.id, Epoch: s.upload.Epoch, MimeType: s.upload.MimeType, Reason: reasonUnsynced,
	}, false)
}

const reasonUnsynced = "the server's disk did not keep the bytes; send the file again"

// resume verifies an upload that another process has left in the middle of it. Where ctx ends, so does that, and somebody else
// goes on.
func (u *Uploads) resume(ctx context.Context, upload store.Upload) error {
	claimed, err := u.log.ClaimUpload(ctx, upload.ID, u.options.Instance, upload.Epoch, store.UploadVerifying)
	if errors.Is(err, store.ErrUploadMoved) {
		return ErrUploadBusy // somebody was faster
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, finishMost)
	defer cancel()
	_, err = u.conclude(ctx, &claimed)
	if failed := (*FailedError)(nil); errors.As(err, &failed) {
		err = nil // that is told by its state
	}
	return err
}

// conclude verifies a claimed upload and commits the outcome.
func (u *Uploads) conclude(ctx context.Context, claimed *store.ClaimedUpload) (store.Upload, error) {
	outcome, digest, err := u.verify(ctx, claimed)
	if err != nil {
		return claimed.Upload, err
	}
	return u.commitOutcome(ctx, claimed, outcome, digest)
}

// commitOutcome says in the log what has become of an upload, and deletes the bytes that nobody needs then.
func (u *Uploads) commitOutcome(ctx context.Context, claimed *store.ClaimedUpload, outcome *store.FinishUpload, digest bool) (store.Upload, error) {
	_, err := u.changer.Change(ctx, outcome)
	if errors.Is(err, store.ErrUploadMoved) {
		return claimed.Upload, ErrUploadBusy // another instance took us for dead: it finishes
	}
	if err != nil {
		return claimed.Upload, err
	}
	state := store.UploadReady
	if outcome.Reason != "" {
		state = store.UploadFailed
	}
	u.metrics.Ended.WithLabelValues(string(state)).Inc()
	if outcome.Reason != "" {
		u.discard(ctx, claimed.ID)
	}
	for _, part := range claimed.Parts {
		u.discard(ctx, part)
	}
	upload, err := u.log.Upload(ctx, claimed.ID)
	if err == nil && upload.State == store.UploadFailed {
		err = &FailedError{Upload: upload, Digest: digest}
	}
	return upload, err
}

// verify says what an upload is whose bytes are all here. Whoever does so for long renews its lease meanwhile.
func (u *Uploads) verify(ctx context.Context, claimed *store.ClaimedUpload) (outcome *store.FinishUpload, digest bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(u.ctx, func() { cancel(ErrUploadBusy) })() // another instance goes on
	u.beside.Go(func() {
		ticker := time.NewTicker(renewEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if err := u.log.RenewUpload(ctx, claimed.ID, claimed.Epoch); errors.Is(err, store.ErrUploadMoved) {
				cancel(ErrUploadBusy)
			}
		}
	})
	outcome = &store.FinishUpload{ID: claimed.ID, Epoch: claimed.Epoch, MimeType: claimed.MimeType}
	sum, err := u.sum(ctx, claimed)
	var head []byte
	if err == nil && claimed.Kind != store.UploadPartial {
		head, err = u.head(ctx, claimed)
	}
	switch {
	case errors.Is(err, blobs.ErrShort), errors.Is(err, errOtherBytes):
		u.options.Log.Error("an upload has failed: what is stored is not what was sent", "upload", claimed.ID, "err", err)
		outcome.Reason = "what is stored is not what was sent: bytes were lost before they were on the disk; send the file again"
		return outcome, false, nil
	case errors.Is(err, errUnsynced):
		u.options.Log.Error("an upload fails", "upload", claimed.ID, "err", err)
		outcome.Reason = reasonUnsynced
		return outcome, false, nil
	case err != nil:
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, false, err
	case claimed.Declared != nil && !bytes.Equal(claimed.Declared, sum):
		outcome.Reason = "the file does not have the SHA-256 that was given for it"
		return outcome, true, nil
	}
	outcome.SHA256 = sum
	if claimed.Kind == store.UploadPartial {
		return outcome, false, nil
	}
	mimeType, reason := judgeType(head, claimed.Claimed)
	outcome.Reason = reason
	if reason == "" {
		outcome.MimeType = mimeType
		outcome.Read = u.options.Reads(mimeType, claimed.DocumentType)
	}
	return outcome, false, nil
}

// errOtherBytes says that what is stored has another digest than what was received.
var errOtherBytes = errors.New("the stored bytes have another digest than those received")

// sum is the SHA-256 of the whole. It is known from the bytes as they came; where those that another process wrote may
// have been lost since, they are synced and read once more.
func (u *Uploads) sum(ctx context.Context, claimed *store.ClaimedUpload) ([]byte, error) {
	digest := sha256.New()
	if len(claimed.DigestState) > 0 {
		if err := digest.(encoding.BinaryUnmarshaler).UnmarshalBinary(claimed.DigestState); err != nil {
			return nil, errors.Join(errOtherBytes, err)
		}
	}
	sum := digest.Sum(nil)
	var foreign []blobs.Extent
	for i := range claimed.Segments {
		if !claimed.Segments[i].Synced {
			foreign = append(foreign, extentOf(&claimed.Segments[i]))
		}
	}
	if !u.blobs.Rereads() || len(foreign) == 0 {
		return sum, nil
	}
	if err := u.blobs.Sync(ctx, claimed.ID, foreign); err != nil {
		return nil, unsynced(err)
	}
	body, err := u.blobs.Open(ctx, claimed.ID, extentsOf(claimed.Segments), 0, claimed.Size)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	digest.Reset()
	if _, err := io.Copy(digest, contextReader{ctx, body}); err != nil {
		return nil, err
	}
	if !bytes.Equal(digest.Sum(nil), sum) {
		return nil, errOtherBytes
	}
	return sum, nil
}

// contextReader ends with a context.
type contextReader struct {
	ctx  context.Context
	from io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}

// head is what the type of an upload is judged by.
func (u *Uploads) head(ctx context.Context, claimed *store.ClaimedUpload) ([]byte, error) {
	length := min(claimed.Size, sniffBytes)
	if length == 0 {
		return nil, nil
	}
	body, err := u.blobs.Open(ctx, claimed.ID, extentsOf(claimed.Segments), 0, length)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// join makes an upload of whole partial ones, in their order.
func (u *Uploads) join(ctx context.Context, made store.NewUpload) (store.Upload, error) {
	upload, err := u.log.JoinedUpload(ctx, made.Org, made.User, made.Parts)
	if errors.Is(err, store.ErrNoUpload) {
		made.Size = 0
		var held int64
		for i, id := range made.Parts {
			part, err := u.log.Upload(ctx, id)
			switch {
			case err != nil && !errors.Is(err, store.ErrNoUpload):
				return upload, err
			case err != nil, part.Org != made.Org, part.User != made.User, part.Kind != store.UploadPartial, part.State != store.UploadReady:
				return upload, ErrUploadParts
			}
			made.Size += part.Size
			if !slices.Contains(made.Parts[:i], id) {
				held += part.Size
			}
		}
		if made.Size > u.options.MaxSize {
			return upload, &SizeError{Limit: u.options.MaxSize}
		}
		// Its parts hold as many bytes of the user's quota, which they give back once it is ready.
		limits := u.options.UploadLimits
		limits.Quota += held
		upload, err = u.log.CreateUpload(ctx, made, limits)
	}
	if err != nil || upload.State == store.UploadReady {
		return upload, err
	}
	s, err := u.enter(ctx, upload.ID)
	if err != nil {
		return upload, err
	}
	defer u.leave(s)
	var over *overError
	if err := u.own(ctx, s); errors.As(err, &over) {
		return u.joined(over.upload)
	} else if err != nil {
		return upload, err
	}
	from := s.upload.Offset
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	body := &partsReader{ctx: reading, uploads: u, parts: s.upload.Parts, skip: from}
	defer body.close()
	receipt, err := u.appendTo(ctx, s, &Chunk{
		Upload: upload.ID, Offset: from, Length: s.upload.Size - from, Body: contextReader{reading, body}, Total: -1,
		Interrupt: func() { stop(ErrUploadYielded) },
	})
	if err != nil {
		return u.failed(ctx, s, from, receipt.Upload, err)
	}
	return receipt.Upload, nil
}

// joined answers for an upload that was joined meanwhile.
func (u *Uploads) joined(upload store.Upload) (store.Upload, error) {
	switch upload.State {
	case store.UploadReady:
		return upload, nil
	case store.UploadVerifying:
		return upload, ErrUploadBusy
	case store.UploadFailed:
		return upload, &FailedError{Upload: upload}
	}
	return upload, ErrUploadGone
}

// partsReader reads uploads one after another.
type partsReader struct {
	ctx     context.Context
	uploads *Uploads
	parts   []string
	skip    int64 // bytes that are not wanted
	open    io.ReadCloser
}

// Read implements io.Reader.
func (r *partsReader) Read(p []byte) (int, error) {
	for {
		if r.open == nil {
			if len(r.parts) == 0 {
				return 0, io.EOF
			}
			if err := r.next(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := r.open.Read(p)
		if errors.Is(err, io.EOF) {
			err = nil
			r.close()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next opens the next part that has bytes that are wanted.
func (r *partsReader) next() error {
	part, err := r.uploads.log.Upload(r.ctx, r.parts[0])
	if err != nil {
		return err
	}
	r.parts = r.parts[1:]
	if r.skip >= part.Size {
		r.skip -= part.Size
		return nil
	}
	r.open, err = r.uploads.Content(r.ctx, part, r.skip, part.Size-r.skip)
	r.skip = 0
	return err
}

func (r *partsReader) close() {
	if r.open != nil {
		r.open.Close()
		r.open = nil
	}
}
