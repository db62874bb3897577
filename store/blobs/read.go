package blobs

import (
	"fmt"
	"io"
)

// reader reads bytes of an upload, one extent after the other. Each is opened once it is reached.
type reader struct {
	open    func(extent Extent, from, length int64) (io.ReadCloser, error) // from: in the extent
	extents []Extent                                                       // not read yet, the current one first
	at, end int64                                                          // in the upload
	current io.ReadCloser                                                  // nil: the next one is not open
	left    int64                                                          // of current
}

func newReader(extents []Extent, from, length int64, open func(Extent, int64, int64) (io.ReadCloser, error)) (io.ReadCloser, error) {
	if from < 0 || length < 0 {
		return nil, fmt.Errorf("an upload has no %d bytes from %d", length, from)
	}
	return &reader{open: open, extents: extents, at: from, end: from + length}, nil
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.at == r.end {
		return 0, io.EOF
	}
	if r.current == nil {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n, err := r.current.Read(p[:min(int64(len(p)), r.left)])
	r.at += int64(n)
	r.left -= int64(n)
	switch {
	case r.left == 0: // whatever came with the last byte
		return n, r.Close()
	case err == io.EOF:
		return n, ErrShort
	}
	return n, err
}

// next opens the extent with the next byte.
func (r *reader) next() error {
	for len(r.extents) > 0 && r.extents[0].Start+r.extents[0].Size <= r.at {
		r.extents = r.extents[1:]
	}
	if len(r.extents) == 0 || r.extents[0].Start > r.at {
		return ErrShort
	}
	extent := r.extents[0]
	left := min(r.end, extent.Start+extent.Size) - r.at
	current, err := r.open(extent, r.at-extent.Start, left)
	if err != nil {
		return err
	}
	r.current, r.left = current, left
	return nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	if r.current == nil {
		return nil
	}
	current := r.current
	r.current = nil
	return current.Close()
}
