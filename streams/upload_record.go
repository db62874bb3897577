package streams

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"sluice/store"
	"sluice/store/blobs"
)

// record writes down how far the upload has come.
func (u *Uploads) record(ctx context.Context, s *session, with func(*store.UploadRecord)) error {
	if err := s.recordedBeside(); err != nil {
		return err
	}
	r := u.recordOf(s)
	if with != nil {
		with(&r)
	}
	if err := u.log.RecordUpload(ctx, &r); err != nil {
		return err
	}
	s.noted(&r)
	return nil
}

// recordBeside has the row told while bytes are read. Nothing counts until recordedBeside has said that it was.
func (u *Uploads) recordBeside(ctx context.Context, s *session) {
	r := u.recordOf(s)
	r.Segments = slices.Clone(r.Segments)
	s.noted(&r)
	outcome := make(chan error, 1)
	s.recording = outcome
	u.beside.Go(func() { outcome <- u.log.RecordUpload(context.WithoutCancel(ctx), &r) })
}

// recordedBeside waits for what recordBeside has begun. Where that has failed, it says so until the session is given up.
func (s *session) recordedBeside() error {
	if s.recording != nil {
		s.unrecorded, s.recording = <-s.recording, nil
	}
	return s.unrecorded
}

// recordOf is how far the upload has come.
func (u *Uploads) recordOf(s *session) store.UploadRecord {
	now := time.Now()
	if elapsed := now.Sub(s.recorded); s.upload.Offset > s.recordedOffset && elapsed > 0 {
		rate := float64(s.upload.Offset-s.recordedOffset) / elapsed.Seconds()
		if s.upload.Rate > 0 {
			rate = (rate + s.upload.Rate) / 2
		}
		s.upload.Rate = rate
	}
	return store.UploadRecord{
		ID: s.id, Epoch: s.upload.Epoch, Offset: s.upload.Offset, Size: s.upload.Size, DigestState: s.state, Chunks: s.chunkRecords(),
		Declared: s.upload.Declared, MimeType: s.upload.MimeType, Rate: s.upload.Rate, Expiry: u.options.Expiry,
		State: store.UploadUploading, Segments: s.segments[s.fresh:],
	}
}

// noted says that the row is as the record has it.
func (s *session) noted(r *store.UploadRecord) {
	now := time.Now()
	s.upload.State, s.upload.ExpiresAt = r.State, now.Add(r.Expiry).UTC()
	s.fresh, s.recorded, s.recordedOffset = len(s.segments), now, r.Offset
}

// remember keeps a chunk's digest, by which its repetition is known.
func (s *session) remember(chunk blobs.Chunk) {
	if chunk.Length == 0 {
		return
	}
	if len(s.chunks) == rememberMost {
		s.chunks = append(s.chunks[:0], s.chunks[1:]...)
	}
	s.chunks = append(s.chunks, chunk)
}

// forget drops the chunks that end after an offset.
func (s *session) forget(offset int64) {
	kept := s.chunks[:0]
	for _, chunk := range s.chunks {
		if chunk.Offset+chunk.Length <= offset {
			kept = append(kept, chunk)
		}
	}
	s.chunks = kept
}

func (s *session) chunkRecords() []byte {
	text := make([]byte, 0, len(s.chunks)*chunkRecord)
	for i := range s.chunks {
		text = binary.BigEndian.AppendUint64(text, uint64(s.chunks[i].Offset))
		text = binary.BigEndian.AppendUint64(text, uint64(s.chunks[i].Length))
		text = append(text, s.chunks[i].Digest[:]...)
	}
	return text
}

func readChunks(text []byte) (chunks []blobs.Chunk) {
	for ; len(text) >= chunkRecord; text = text[chunkRecord:] {
		chunk := blobs.Chunk{Offset: int64(binary.BigEndian.Uint64(text)), Length: int64(binary.BigEndian.Uint64(text[8:]))}
		copy(chunk.Digest[:], text[16:])
		chunks = append(chunks, chunk)
	}
	return chunks
}
