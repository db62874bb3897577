package blobs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

const (
	// tailsMost is how many tail objects a segment may have before a Commit writes one for all of them. It bounds the Mark, and
	// what Inherit has to read.
	tailsMost = 64

	// s3Patience is how long calls of a segment wait for the store: whoever writes has nobody else to end them.
	s3Patience = 2 * time.Minute
)

// mark is where committed bytes lie.
type mark struct {
	Multipart string   `json:"multipart,omitempty"` // its id
	Parts     []string `json:"parts,omitempty"`     // their ETags; all of one size
	Tails     []int64  `json:"tails,omitempty"`     // lengths of the objects with what follows, in order
}

// readMark reads what Commit has answered.
func readMark(text []byte) (m mark, err error) {
	if len(text) > 0 {
		err = json.Unmarshal(text, &m)
	}
	return m, err
}

// tailed is how many bytes the tail objects have.
func (m *mark) tailed() (n int64) {
	for _, one := range m.Tails {
		n += one
	}
	return n
}

func tailKey(key string, offset, length int64) string {
	return fmt.Sprintf("%s.tail/%d-%d", key, offset, length)
}

// s3Segment is a segment that this process writes to S3.
type s3Segment struct {
	store     *S3
	key       string
	multipart string   // its id; "": none was begun
	parts     []string // ETags of those that were uploaded, also beyond the last Commit: others take their numbers after Rollback
	buffer    []byte   // bytes behind the parts
	committed int64
	mark      mark  // of the last Commit
	failed    error // why the segment is of no use any more
}

// partsBytes is how many bytes a number of parts have.
func (s *S3) partsBytes(parts []string) int64 { return int64(len(parts)) * int64(s.part) }

func (s *s3Segment) written() int64 { return s.store.partsBytes(s.parts) + int64(len(s.buffer)) }

// Write implements Segment. It waits for the store when a part is full. After an error, Rollback makes the segment usable again.
func (s *s3Segment) Write(p []byte) (n int, err error) {
	for s.failed == nil {
		if len(s.buffer) == s.store.part {
			if err := s.upload(); err != nil {
				return n, err
			}
		}
		if n == len(p) {
			return n, nil
		}
		n += s.take(p[n:])
	}
	return n, s.failed
}

// take fills the buffer, which grows no further than a part.
func (s *s3Segment) take(p []byte) int {
	n := min(len(p), s.store.part-len(s.buffer))
	if need := len(s.buffer) + n; need > cap(s.buffer) {
		grown := make([]byte, len(s.buffer), min(s.store.part, max(need, 2*cap(s.buffer))))
		copy(grown, s.buffer)
		s.buffer = grown
	}
	s.buffer = append(s.buffer, p[:n]...)
	return n
}

// upload makes a part of the buffer.
func (s *s3Segment) upload() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.store.patience)
	defer cancel()
	if s.multipart == "" {
		out, err := s.store.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &s.store.bucket, Key: &s.key})
		if err != nil {
			return err
		}
		// If we stop here, nobody knows the multipart upload; whoever inherits the segment finds it by its key and aborts it.
		s.multipart = aws.ToString(out.UploadId)
	}
	tag, err := s.store.uploadPart(ctx, s.key, s.multipart, len(s.parts)+1, s.buffer)
	if failedWith(err, "NoSuchUpload") {
		s.failed = ErrFenced // whoever has inherited has made an object of it
		return s.failed
	}
	if err != nil {
		return err
	}
	s.parts, s.buffer = append(s.parts, tag), s.buffer[:0]
	return nil
}

func (s *S3) uploadPart(ctx context.Context, key, multipart string, number int, body []byte) (tag string, err error) {
	out, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: &s.bucket, Key: &key, UploadId: &multipart, PartNumber: aws.Int32(int32(number)), Body: bytes.NewReader(body),
	})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.ETag), nil
}

// Commit implements Segment. The note is not remembered, but for its size.
func (s *s3Segment) Commit(ctx context.Context, note Note) ([]byte, error) {
	if s.failed != nil {
		return nil, s.failed
	}
	ctx, cancel := context.WithTimeout(ctx, s.store.patience)
	defer cancel()
	text, err := s.commit(ctx, note)
	s.failed = err
	return text, err
}

func (s *s3Segment) commit(ctx context.Context, note Note) ([]byte, error) {
	if note.Size != s.written() {
		return nil, fmt.Errorf("%d bytes are to be committed of a segment with %d", note.Size, s.written())
	}
	next := mark{Multipart: s.multipart, Parts: s.parts}
	if len(s.parts) == len(s.mark.Parts) && len(s.mark.Tails) < tailsMost {
		next.Tails = s.mark.Tails
	}
	// Tails that are not needed any more stay until the segment is sealed: the row still names them.
	if from := next.tailed(); from < int64(len(s.buffer)) {
		rest := s.buffer[from:]
		if err := s.store.put(ctx, tailKey(s.key, s.store.partsBytes(s.parts)+from, int64(len(rest))), rest); err != nil {
			return nil, err
		}
		// If we stop here, the row does not know the tail, and the bytes do not count.
		next.Tails = append(next.Tails, int64(len(rest)))
	}
	text, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	s.mark, s.committed = next, note.Size
	return text, nil
}

// Rollback implements Segment. It reads back what was committed where a part has taken it in together with what is dropped.
func (s *s3Segment) Rollback() error {
	if s.failed != nil || s.written() == s.committed {
		return s.failed
	}
	kept := s.buffer
	if len(s.parts) > len(s.mark.Parts) {
		ctx, cancel := context.WithTimeout(context.Background(), s.store.patience)
		defer cancel()
		var err error
		kept, err = s.store.readTails(ctx, s.key, s.mark)
		if errors.Is(err, ErrShort) {
			err = ErrFenced // whoever has inherited has deleted them
		}
		if err != nil {
			s.failed = err
			return err
		}
	}
	s.parts = s.parts[:len(s.mark.Parts)]
	s.buffer = kept[:s.committed-s.store.partsBytes(s.parts)]
	return nil
}

// readTails reads the tail objects. A missing one is ErrShort.
func (s *S3) readTails(ctx context.Context, key string, m mark) ([]byte, error) {
	tail := make([]byte, m.tailed())
	rest, offset := tail, s.partsBytes(m.Parts)
	for _, length := range m.Tails {
		object, err := s.get(ctx, tailKey(key, offset, length), 0, length)
		if err != nil {
			return nil, err
		}
		_, err = io.ReadFull(object, rest[:length])
		if err := errors.Join(err, object.Close()); err != nil {
			return nil, err
		}
		rest, offset = rest[length:], offset+length
	}
	return tail, nil
}

// Seal implements Segment. The mark is nil: the object's name is enough.
func (s *s3Segment) Seal(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.store.patience)
	defer cancel()
	err := s.Rollback()
	if err == nil {
		err = s.store.finish(ctx, s.key, s.committed, s.mark, func() ([]byte, error) { return s.buffer, nil })
	}
	return nil, errors.Join(err, s.Close())
}

// Close implements Segment.
func (s *s3Segment) Close() error {
	if s.failed == nil {
		s.failed = os.ErrClosed
	}
	s.buffer = nil
	return nil
}

// finish makes one object of what was committed. Others may be doing the same, or may have done it; then it is there.
func (s *S3) finish(ctx context.Context, key string, size int64, m mark, tail func() ([]byte, error)) error {
	var failed error
	for try := 0; size > 0; try++ {
		there, err := s.size(ctx, key)
		if err != nil {
			return err
		}
		if there >= size {
			break
		}
		if try == 2 {
			return cmp.Or(failed, ErrShort)
		}
		// What we need was taken away because another one has made the object of it; or a zombie has written a part of the
		// number that ours has, and then ours is written once more.
		failed = s.assemble(ctx, key, size, m, tail)
		if failedWith(failed, "NoSuchUpload") {
			failed = errors.Join(ErrShort, failed)
		}
		if failed != nil && !errors.Is(failed, ErrShort) && !failedWith(failed, "InvalidPart") {
			return failed
		}
	}
	// If we stop here, what is left over goes when the upload is deleted.
	err := s.eachMultipart(ctx, key, func(multipart types.MultipartUpload) error {
		if aws.ToString(multipart.Key) != key {
			return nil // the key only begins like ours
		}
		return s.abort(ctx, multipart)
	})
	if err != nil {
		return err
	}
	return s.deleteObjects(ctx, key+".tail/")
}

// assemble makes one object of parts and tail.
func (s *S3) assemble(ctx context.Context, key string, size int64, m mark, tail func() ([]byte, error)) error {
	last, err := tail()
	if err != nil {
		return err
	}
	if s.partsBytes(m.Parts)+int64(len(last)) != size {
		return ErrShort
	}
	if len(m.Parts) == 0 {
		return s.put(ctx, key, last)
	}
	tags := m.Parts
	if len(last) > 0 {
		tag, err := s.uploadPart(ctx, key, m.Multipart, len(tags)+1, last)
		if err != nil {
			return err
		}
		tags = append(tags[:len(tags):len(tags)], tag)
	}
	parts := make([]types.CompletedPart, len(tags))
	for i := range tags {
		parts[i] = types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: &tags[i]}
	}
	_, err = s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &s.bucket, Key: &key, UploadId: &m.Multipart, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return err
}
