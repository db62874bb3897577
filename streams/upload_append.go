package streams

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding"
	"errors"
	"hash"
	"io"
	"sync"
	"time"

	"sluice/store"
	"sluice/store/blobs"
)

const (
	smallBuffer  = 64 << 10  // bytes read, digested and written at a time, of a body that has no more
	uploadBuffer = 128 << 10 // of others: writing costs a tenth less than by 64 KiB
	prefixBytes  = 1 << 20   // of a body without a digest that are committed at a time
)

// Buffers of requests under way, by their size: each request has one, however long its client takes.
var (
	smallBuffers  = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	uploadBuffers = sync.Pool{New: func() any { return new([uploadBuffer]byte) }}
)

// bufferFor gives a buffer for a body of a length, which may be -1, and takes it back by the function.
func bufferFor(length int64) (buffer []byte, done func()) {
	if length >= 0 && length <= smallBuffer {
		small := smallBuffers.Get().(*[smallBuffer]byte)
		return small[:], func() { smallBuffers.Put(small) }
	}
	large := uploadBuffers.Get().(*[uploadBuffer]byte)
	return large[:], func() { uploadBuffers.Put(large) }
}

// Append adds one request's bytes to an upload, and verifies the whole once they are the last. It is the one road of all
// dialects.
//
// Bytes with a digest count all or not at all. Of others those count that were received, also where the body breaks off or a
// newer request takes over: then the error says so, and the offset has moved. A size that is reached is the end,
// whatever the request says. Beside the errors of this file's neighbours it fails with what reading the body fails with.
func (u *Uploads) Append(ctx context.Context, c Chunk) (Receipt, error) {
	s, err := u.enter(ctx, c.Upload)
	if err != nil {
		return Receipt{}, err
	}
	defer u.leave(s)
	if s.owned && (c.Offset != s.upload.Offset || time.Since(s.recorded) > freshFor) {
		// It may be ours no more, and further than we know.
		if err := u.confirm(ctx, s); err != nil {
			return Receipt{}, err
		}
	}
	var over *overError
	switch err := u.own(ctx, s); {
	case errors.As(err, &over):
		return u.appendOver(ctx, s, &c, over.upload)
	case err != nil:
		return Receipt{}, err // the row may be behind what was acknowledged
	case s.upload.Kind == store.UploadJoined:
		return Receipt{Upload: s.upload}, ErrUploadJoined
	}
	receipt, err := u.appendTo(ctx, s, &c)
	if err != nil {
		receipt.Upload, err = u.failed(ctx, s, c.Offset, receipt.Upload, err)
	}
	u.metrics.refused(err)
	return receipt, err
}

// failed gives what the error of a writer means to who asked: what became of the upload where its bytes may be lost, or where
// it is by now, as far as the row has heard, if another instance has taken over: that one is not disturbed by those it was
// faster than.
func (u *Uploads) failed(ctx context.Context, s *session, given int64, upload store.Upload, err error) (store.Upload, error) {
	if errors.Is(err, errUnsynced) {
		upload, err = u.spoil(ctx, s, err)
	}
	if errors.Is(err, blobs.ErrFenced) || errors.Is(err, store.ErrUploadMoved) {
		known := s.upload.Offset
		s.disown()
		moved, err := u.log.Upload(ctx, s.id)
		if err != nil {
			return store.Upload{}, err
		}
		moved.Offset = max(moved.Offset, known)
		return moved, &OffsetError{Given: given, Current: moved.Offset, Yielded: true}
	}
	return upload, err
}

// appendTo adds a chunk to an upload that this process writes.
func (u *Uploads) appendTo(ctx context.Context, s *session, c *Chunk) (Receipt, error) {
	said, err := s.weigh(c)
	if err != nil {
		return Receipt{Upload: s.upload}, err
	}
	if c.Offset != s.upload.Offset {
		receipt, err := u.repeated(s, c)
		if err != nil || !s.upload.Whole() {
			return receipt, err
		}
		// The process that committed the last chunk has died before it was verified.
		receipt.Upload, err = u.complete(ctx, s, c)
		return receipt, err
	}
	if c.Body != nil && c.Length != 0 {
		if err := u.take(ctx, s, c, said); err != nil {
			return Receipt{Upload: s.upload}, err
		}
	} else if s.learn(said) {
		if err := u.record(ctx, s, nil); err != nil {
			return Receipt{Upload: s.upload}, err
		}
	}
	if !s.upload.Whole() {
		return Receipt{Upload: s.upload}, nil
	}
	upload, err := u.complete(ctx, s, c)
	return Receipt{Upload: upload}, err
}

// complete finishes an upload whose bytes are all here, where the request may.
func (u *Uploads) complete(ctx context.Context, s *session, c *Chunk) (store.Upload, error) {
	s.end() // a newer request finds it busy, or finished
	if c.Permit != nil {
		if err := c.Permit(); err != nil {
			return s.upload, err
		}
	}
	return u.finish(ctx, s)
}

// ofWhole is what a request says of the whole that nobody has said before.
type ofWhole struct {
	size   int64  // -1: nothing
	digest []byte // nil: nothing
}

// weigh refuses what contradicts the upload as it is known, and gives what a request adds to that. It does not count yet: the
// request may be refused.
func (s *session) weigh(c *Chunk) (said ofWhole, err error) {
	said.size = -1
	total := c.Total
	if c.Final && total < 0 && c.Length >= 0 {
		total = c.Offset + c.Length
	}
	switch {
	case total >= 0 && s.upload.Size >= 0 && total != s.upload.Size, total >= 0 && total < s.upload.Offset:
		return said, ErrUploadTotal
	case total > s.upload.Limit:
		return said, &SizeError{Limit: s.upload.Limit}
	case c.Length > 0 && c.Length > s.most()-c.Offset: // the sum of the two may be more than an integer holds
		return said, &SizeError{Limit: s.most()}
	case c.Whole != nil && s.upload.Declared != nil && !bytes.Equal(c.Whole, s.upload.Declared):
		return said, ErrUploadDigest
	}
	if s.upload.Declared == nil {
		said.digest = c.Whole
	}
	if total >= 0 && s.upload.Size < 0 && c.Offset == s.upload.Offset {
		said.size = total
	}
	return said, nil
}

// learn has what a request says of the whole count; it tells that the row does not know it yet.
func (s *session) learn(said ofWhole) (news bool) {
	if said.digest != nil {
		s.upload.Declared, news = said.digest, true
	}
	if said.size >= 0 {
		s.upload.Size, news = said.size, true
	}
	return news
}

// most is what the upload may have when all is there.
func (s *session) most() int64 {
	if s.upload.Size >= 0 {
		return s.upload.Size
	}
	return s.upload.Limit
}

// take reads a body to its end, or to where it breaks off.
func (u *Uploads) take(ctx context.Context, s *session, c *Chunk, said ofWhole) error {
	if !s.begin(c.Interrupt) {
		return &OffsetError{Given: c.Offset, Current: s.upload.Offset, Yielded: true}
	}
	if err := u.segmentFor(ctx, s); err != nil {
		s.disown()
		return err
	}
	size, declared := s.upload.Size, s.upload.Declared
	sized, verify := s.learn(said), newChunkDigest(c)
	reading := u.read(ctx, s, c, verify)
	yielded := s.end()
	if errors.Is(reading, ErrStorage) {
		s.disown() // also where a newer request waits: it must not go on with what has failed
		return reading
	}
	if yielded && reading != nil {
		reading = &OffsetError{Given: c.Offset, Current: s.upload.Offset, Yielded: true}
	}
	// What has arrived counts although its client may be gone by now.
	kept := context.WithoutCancel(ctx)
	var chunk blobs.Chunk
	if verify != nil {
		failed := reading
		if failed == nil {
			chunk, failed = verify.check(s, c)
		}
		if failed != nil {
			s.upload.Size, s.upload.Declared = size, declared // nothing of the request counts
			return u.rollback(s, failed)
		}
	}
	length := s.written - s.segments[len(s.segments)-1].Size
	switch {
	case reading == nil && c.Final && s.upload.Size < 0:
		s.upload.Size, sized = s.upload.Offset+length, true
	case length == 0 && !sized:
		return reading
	}
	if err := u.commit(kept, s, chunk, sized); err != nil {
		s.disown()
		return err
	}
	if yielded := (*OffsetError)(nil); errors.As(reading, &yielded) {
		yielded.Current = s.upload.Offset
	}
	return reading
}

// ErrStorage marks what the store of bytes fails with: the segment is of no use any more. What was acknowledged stays.
var ErrStorage = errors.New("the bytes cannot be stored")

// read digests and writes the body. A body without a digest is committed as it comes.
func (u *Uploads) read(ctx context.Context, s *session, c *Chunk, verify *chunkDigest) error {
	buffer, done := bufferFor(c.Length)
	defer done()
	for got := int64(0); ; {
		room := s.most() - (s.segments[len(s.segments)-1].Start + s.written)
		piece := buffer[:min(int64(len(buffer)), room+1)] // one more than may come, so that too much is seen
		n, err := fill(c.Body, piece)
		if int64(n) > room {
			n, err = int(room), &SizeError{Limit: s.most()}
		}
		got += int64(n)
		if n > 0 {
			_, _ = s.digest.Write(piece[:n])
			if verify != nil {
				verify.write(piece[:n])
			}
			if _, failed := s.segment.Write(piece[:n]); failed != nil {
				return errors.Join(ErrStorage, failed)
			}
			s.written += int64(n)
		}
		if err == io.EOF {
			if c.Length >= 0 && got != c.Length {
				return ErrChunkLength
			}
			return nil
		}
		if err != nil {
			return err
		}
		if verify == nil && s.written-s.segments[len(s.segments)-1].Size >= prefixBytes {
			if err := u.commit(context.WithoutCancel(ctx), s, blobs.Chunk{}, false); err != nil {
				return errors.Join(ErrStorage, err)
			}
			if c.Progress != nil {
				c.Progress(s.upload.Offset)
			}
			if err := u.segmentFor(ctx, s); err != nil {
				return errors.Join(ErrStorage, err)
			}
		}
	}
}

// fill reads until the piece is full. Unlike io.ReadFull it does not make the end of a body look like one that breaks off.
func fill(body io.Reader, piece []byte) (n int, err error) {
	for n < len(piece) && err == nil {
		var more int
		more, err = body.Read(piece[n:])
		n += more
	}
	return n, err
}

// rollback drops what was written since the last commit, and returns why.
func (u *Uploads) rollback(s *session, why error) error {
	last := &s.segments[len(s.segments)-1]
	if err := s.segment.Rollback(); err != nil {
		s.disown()
		return errors.Join(why, err)
	}
	s.written = last.Size
	s.digest.Reset()
	if len(s.state) > 0 {
		if err := s.digest.(encoding.BinaryUnmarshaler).UnmarshalBinary(s.state); err != nil {
			s.disown()
			return errors.Join(why, err)
		}
	}
	return why
}

// chunkDigest verifies a chunk while it is read.
type chunkDigest struct {
	sha256 hash.Hash // by which a repetition is known
	others map[crypto.Hash]hash.Hash
}

// newChunkDigest is nil where the chunk has no digest.
func newChunkDigest(c *Chunk) *chunkDigest {
	if c.Digest == nil && c.Trailer == nil {
		return nil
	}
	d := &chunkDigest{sha256: sha256.New()}
	if c.Trailer != nil {
		// Which one it will be is told after the bytes.
		d.others = map[crypto.Hash]hash.Hash{crypto.SHA1: crypto.SHA1.New(), crypto.SHA512: crypto.SHA512.New(), crypto.MD5: crypto.MD5.New()}
	} else if c.Digest.Algorithm != crypto.SHA256 {
		d.others = map[crypto.Hash]hash.Hash{c.Digest.Algorithm: c.Digest.Algorithm.New()}
	}
	return d
}

func (d *chunkDigest) write(p []byte) {
	_, _ = d.sha256.Write(p)
	for _, other := range d.others {
		_, _ = other.Write(p)
	}
}

// check compares with what the request says, and gives what is remembered of the chunk.
func (d *chunkDigest) check(s *session, c *Chunk) (chunk blobs.Chunk, err error) {
	expected := c.Digest
	if c.Trailer != nil {
		late, err := c.Trailer()
		if err != nil {
			return chunk, err
		}
		if late != nil {
			if err := d.compare(late, s.upload.Offset); err != nil {
				return chunk, err
			}
		}
	}
	if expected != nil {
		if err := d.compare(expected, s.upload.Offset); err != nil {
			return chunk, err
		}
	}
	chunk = blobs.Chunk{Offset: s.upload.Offset, Length: s.written - s.segments[len(s.segments)-1].Size}
	d.sha256.Sum(chunk.Digest[:0])
	return chunk, nil
}

func (d *chunkDigest) compare(expected *Expected, offset int64) error {
	of := d.sha256
	if expected.Algorithm != crypto.SHA256 {
		of = d.others[expected.Algorithm]
	}
	if of == nil || !bytes.Equal(of.Sum(nil), expected.Sum) {
		return &DigestError{Offset: offset}
	}
	return nil
}

// repeated answers for a range that does not begin where the upload ends: whoever lost the answer to a chunk sends it again.
func (u *Uploads) repeated(s *session, c *Chunk) (Receipt, error) {
	refused := &OffsetError{Given: c.Offset, Current: s.upload.Offset}
	if !c.Repeatable || c.Digest == nil || c.Digest.Algorithm != crypto.SHA256 || c.Body == nil {
		return Receipt{Upload: s.upload}, refused
	}
	for i := range s.chunks {
		known := &s.chunks[i]
		if known.Offset != c.Offset || known.Length != c.Length {
			continue
		}
		if !bytes.Equal(known.Digest[:], c.Digest.Sum) {
			refused.Conflict = true
			return Receipt{Upload: s.upload}, refused
		}
		if !s.begin(c.Interrupt) {
			refused.Yielded = true
			return Receipt{Upload: s.upload}, refused
		}
		digest := sha256.New()
		n, err := io.Copy(digest, io.LimitReader(c.Body, c.Length+1))
		switch {
		case err != nil:
			return Receipt{Upload: s.upload}, err
		case n != c.Length:
			return Receipt{Upload: s.upload}, ErrChunkLength
		case !bytes.Equal(digest.Sum(nil), known.Digest[:]):
			return Receipt{Upload: s.upload}, &DigestError{Offset: c.Offset}
		}
		return Receipt{Upload: s.upload, Repeated: true}, nil
	}
	return Receipt{Upload: s.upload}, refused
}

// appendOver answers for a chunk of an upload that takes no bytes any more.
func (u *Uploads) appendOver(ctx context.Context, s *session, c *Chunk, upload store.Upload) (Receipt, error) {
	switch upload.State {
	case store.UploadVerifying:
		return Receipt{Upload: upload}, ErrUploadBusy
	case store.UploadReady:
	default:
		return Receipt{Upload: upload}, ErrUploadGone
	}
	if upload.Kind == store.UploadJoined {
		return Receipt{Upload: upload}, ErrUploadJoined
	}
	if c.Body == nil || c.Length == 0 {
		if c.Offset != 0 && c.Offset != upload.Offset {
			return Receipt{Upload: upload}, &OffsetError{Given: c.Offset, Current: upload.Offset}
		}
		if c.Total >= 0 && c.Total != upload.Size {
			return Receipt{Upload: upload}, ErrUploadTotal
		}
		return Receipt{Upload: upload, Repeated: true}, nil
	}
	records, err := u.log.UploadChunks(ctx, upload.ID)
	if err != nil {
		return Receipt{Upload: upload}, err
	}
	s.upload, s.chunks = upload, readChunks(records)
	receipt, err := u.repeated(s, c)
	if refused := (*OffsetError)(nil); errors.As(err, &refused) && c.Offset == upload.Offset {
		err = ErrUploadWhole
	}
	return receipt, err
}
