package blobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// diskSegment is a segment that this process writes to a Disk.
type diskSegment struct {
	disk      *Disk
	name      string   // of the file, in the store's directory
	file      *os.File // opened to append
	journal   *os.File // likewise; nil with SyncChunk
	end       int64    // of the journal, after our last record
	written   int64    // bytes of the file
	committed int64    // those that count
	begun     int64    // those that the kernel was asked to write back
	named     bool     // the directories with the file's name are synced
	failed    error    // why the segment is of no use any more
	record    record   // the buffer of Commit
}

// open makes the segment, or empties it where it is there and was not inherited.
func (s *diskSegment) open() error {
	begin := s.begin
	if s.disk.policy == SyncChunk {
		begin = s.unfenced
	}
	if err := begin(); err != nil {
		return err
	}
	// If we stop here, the segment is an empty one, whatever its file holds: no record says that any of it counts.
	err := s.create()
	if errors.Is(err, fs.ErrExist) {
		// It is not truncated: an earlier try may still write to it.
		if err := s.disk.root.Remove(s.name); err != nil {
			return err
		}
		err = s.create()
	}
	return err
}

func (s *diskSegment) create() (err error) {
	s.file, err = s.disk.root.OpenFile(s.name, os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_WRONLY, 0o600)
	return err
}

// begin opens the journal and appends that the segment is empty. This is an append like all others, and not a truncation,
// so that a fence is never lost: either it lies before our record, and is found, or behind it, and Commit finds it.
func (s *diskSegment) begin() (err error) {
	if s.journal, err = s.disk.openJournal(s.name); err != nil {
		return err
	}
	if err := s.record.fill(kindBegin, &Note{}); err != nil {
		return err
	}
	if _, err := s.journal.Write(s.record[:]); err != nil {
		return err
	}
	if s.end, err = s.journal.Seek(0, io.SeekCurrent); err != nil || s.end == recordSize {
		return err
	}
	said, err := readJournal(io.NewSectionReader(s.journal, 0, s.end), 0)
	if err == nil && said.ended {
		err = ErrFenced // also where an earlier try has left a torn record, behind which nothing would count
	}
	return err
}

// unfenced looks whether somebody has inherited the segment, where it has no journal of its own. It is a courtesy: what
// keeps a zombie from counting is the upload's row.
func (s *diskSegment) unfenced() error {
	_, err := s.disk.root.Stat(s.name + ".journal")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = ErrFenced
	}
	return err
}

// Write implements Segment. After an error, Rollback makes the segment usable again.
func (s *diskSegment) Write(p []byte) (int, error) {
	if s.failed != nil {
		return 0, s.failed
	}
	n, err := s.file.Write(p)
	s.written += int64(n)
	return n, err
}

// Commit implements Segment. The mark is nil.
func (s *diskSegment) Commit(_ context.Context, note Note) ([]byte, error) {
	if s.failed == nil {
		s.failed = s.commit(&note)
	}
	return nil, s.failed
}

func (s *diskSegment) commit(note *Note) error {
	if note.Size != s.written {
		return fmt.Errorf("%d bytes are to be committed of a segment with %d", note.Size, s.written)
	}
	if s.journal == nil {
		if err := s.sync(); err != nil {
			return err
		}
		s.committed = s.written
		return nil
	}
	if err := s.record.fill(kindCommit, note); err != nil {
		return err
	}
	// If we stop here, the bytes lie beyond the last record and do not count.
	if _, err := s.journal.Write(s.record[:]); err != nil {
		return err // what there is of the record is torn, and ends the journal
	}
	// If we stop here, the bytes count unless a fence came before them, though nobody was told.
	at, err := s.journal.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	// An append leaves the position behind what it wrote. If that is further than where our own records end, somebody has
	// appended between them and this one. It can only have been a fence, or another try of ours at this segment.
	if at != s.end+recordSize {
		return ErrFenced
	}
	s.end, s.committed = at, s.written
	s.writeBack()
	return nil
}

// writeBackBytes are committed before the kernel is asked to begin writing them to the disk.
const writeBackBytes = 1 << 20

// writeBack has the kernel begin to write what will be synced, so that Seal finds little left to wait for. It is a hint.
func (s *diskSegment) writeBack() {
	if fresh := s.committed - s.begun; s.disk.policy == SyncComplete && fresh >= writeBackBytes {
		_ = unix.SyncFileRange(int(s.file.Fd()), s.begun, fresh, unix.SYNC_FILE_RANGE_WRITE)
		s.begun = s.committed
	}
}

// sync makes the bytes survive a power cut, and the file's name where it is a new one.
func (s *diskSegment) sync() error {
	if err := s.disk.sync(s.file); err != nil || s.named {
		return err
	}
	// If we stop here, the bytes may be lost with their name. Nobody was told of them.
	if err := s.disk.syncDirectories(path.Base(path.Dir(s.name))); err != nil {
		return err
	}
	s.named = true
	return nil
}

// Rollback implements Segment. A segment that has failed is left as it is: its record may count although we do not know.
func (s *diskSegment) Rollback() error {
	if s.failed != nil || s.written == s.committed {
		return s.failed
	}
	if err := s.file.Truncate(s.committed); err != nil {
		s.failed = err
		return err
	}
	s.written = s.committed
	return nil
}

// Seal implements Segment. The mark is nil. The journal stays until the upload is deleted: until its row says that the
// segment is sealed, another process may inherit it.
func (s *diskSegment) Seal(context.Context) ([]byte, error) {
	err := s.Rollback()
	if err == nil && s.disk.policy == SyncComplete && s.committed > 0 {
		err = s.sync()
	}
	return nil, errors.Join(err, s.Close())
}

// Close implements Segment.
func (s *diskSegment) Close() error {
	if s.failed == nil {
		s.failed = os.ErrClosed
	}
	var errs []error
	for _, file := range []*os.File{s.file, s.journal} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	s.file, s.journal = nil, nil
	return errors.Join(errs...)
}
