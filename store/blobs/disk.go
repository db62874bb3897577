package blobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

// SyncPolicy says what a Disk has made survive a power cut when a call returns.
type SyncPolicy string

// The policies. Whatever it is, what was committed survives the death of every process.
const (
	// SyncChunk: each Commit. Nothing is read again, and the upload's row holds each Commit.
	SyncChunk SyncPolicy = "chunk"
	// SyncComplete: what was sealed by Seal. Of the rest, any part may be lost.
	SyncComplete SyncPolicy = "complete"
	// SyncNone: nothing.
	SyncNone SyncPolicy = "none"
)

// Disk keeps segments as files of a directory: {id[:2]}/{id}/{start}-{epoch}, with a journal beside each whose name ends in
// .journal, and signs of instances in .instances.
//
// Processes share the directory without locks: a writer and those who inherit from it append to the segment's journal, and the
// order in which the kernel puts their records decides (journal.go). So the directory has to be on a file system whose
// appends are atomic among all who use it: any local one, or a cluster file system such as CephFS or GFS2, but
// not NFS, whose clients work out by themselves where a file ends. With SyncChunk it does not matter: there is no journal, and
// what decides is the upload's row, which holds each Commit together with the epoch of its writer.
//
// Beyond its last Commit a segment's file may have bytes that do not count. Its writer cuts them off before it goes on; for
// everybody else an extent's size is where it ends.
type Disk struct {
	// Synced, where it is not nil, is told of each file (its size then) and each directory (-1) that was synced, by its
	// path in the store's directory. It is for tests that cut the power, and is set before anything else is done.
	Synced func(name string, size int64)

	root   *os.Root
	policy SyncPolicy
}

var _ Store = (*Disk)(nil)

// OpenDisk opens the store in a directory, which it makes where it is missing.
func OpenDisk(dir string, policy SyncPolicy) (*Disk, error) {
	switch policy {
	case SyncChunk, SyncComplete, SyncNone:
	default:
		return nil, fmt.Errorf("%q is no policy of syncing: chunk, complete and none are", policy)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := makeDirectory(dir, policy != SyncNone); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Disk{root: root, policy: policy}, nil
}

// makeDirectory makes a directory and those above it that are missing, each known to the one above it.
func makeDirectory(dir string, sync bool) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDirectory(filepath.Dir(dir), sync); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil || !sync {
		return err
	}
	above, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer above.Close()
	return above.Sync()
}

// directory is where an upload's segments lie.
func directory(upload string) string { return path.Join(upload[:2], upload) }

// segmentPath makes the directory of a segment where it is missing, and names its file.
func (d *Disk) segmentPath(upload string, start, epoch int64) (string, error) {
	if err := checkSegment(upload, start, epoch); err != nil {
		return "", err
	}
	dir := directory(upload)
	return path.Join(dir, segmentName(start, epoch)), d.root.MkdirAll(dir, 0o700)
}

// openJournal opens a segment's journal, which it makes where it is missing.
func (d *Disk) openJournal(name string) (*os.File, error) {
	return d.root.OpenFile(name+".journal", os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
}

// Create implements Store.
func (d *Disk) Create(_ context.Context, upload string, start, epoch int64) (Segment, error) {
	name, err := d.segmentPath(upload, start, epoch)
	if err != nil {
		return nil, err
	}
	s := &diskSegment{disk: d, name: name}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Inherit implements Store.
func (d *Disk) Inherit(_ context.Context, upload string, extent Extent) (Extent, []Note, error) {
	name, err := d.segmentPath(upload, extent.Start, extent.Epoch)
	if err != nil {
		return extent, nil, err
	}
	journal, err := d.openJournal(name)
	if err != nil {
		return extent, nil, err
	}
	defer journal.Close()
	// A fence is appended whether there is one already or not: only the first counts, and asking would be a race.
	var fence record
	if err := fence.fill(kindFence, &Note{}); err != nil {
		return extent, nil, err
	}
	// If we stop within this write, the writer is fenced by what there is of the record, and the journal ends at it.
	if _, err := journal.Write(fence[:]); err != nil {
		return extent, nil, err
	}
	// If we stop here, the writer is fenced, and whoever inherits next finds the same as we would.
	end, err := journal.Seek(0, io.SeekCurrent)
	if err != nil {
		return extent, nil, err
	}
	said, err := readJournal(io.NewSectionReader(journal, 0, end), extent.Size)
	if err != nil {
		return extent, nil, err
	}
	// Every record that counts was written after its bytes, so they are there by now, unless the power was cut: then the
	// journal may have been saved and they not.
	var there int64
	switch info, err := d.root.Stat(name); {
	case err == nil:
		there = info.Size()
	case !errors.Is(err, fs.ErrNotExist):
		return extent, nil, err
	}
	if there < extent.Size {
		return extent, nil, ErrShort
	}
	count := 0
	for count < len(said.notes) && said.notes[count].Size <= there {
		extent.Size = said.notes[count].Size
		count++
	}
	return extent, said.notes[:count], nil
}

// Sync implements Store.
func (d *Disk) Sync(_ context.Context, upload string, extents []Extent) error {
	if err := checkUpload(upload); err != nil {
		return err
	}
	if d.policy == SyncNone {
		return nil
	}
	for _, extent := range extents {
		if extent.Size == 0 {
			continue // it may never have been made
		}
		file, err := d.openSegment(upload, extent)
		if err != nil {
			return err
		}
		if err := errors.Join(d.sync(file), file.Close()); err != nil {
			return err
		}
	}
	return d.syncDirectories(upload)
}

// openSegment opens a segment that has bytes.
func (d *Disk) openSegment(upload string, extent Extent) (*os.File, error) {
	if err := checkSegment(upload, extent.Start, extent.Epoch); err != nil {
		return nil, err
	}
	file, err := d.root.Open(path.Join(directory(upload), segmentName(extent.Start, extent.Epoch)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrShort
	}
	return file, err
}

// sync makes a file or a directory survive a power cut.
func (d *Disk) sync(file *os.File) error {
	size := int64(-1)
	if d.Synced != nil {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		if !info.IsDir() {
			size = info.Size()
		}
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsynced, err)
	}
	if d.Synced != nil {
		name, err := filepath.Rel(d.root.Name(), file.Name())
		if err != nil {
			return err
		}
		d.Synced(name, size)
	}
	return nil
}

// syncDirectories makes the names of an upload's segments survive. The kernel has little to do where nothing has changed.
func (d *Disk) syncDirectories(upload string) error {
	dir := directory(upload)
	for _, name := range []string{dir, path.Dir(dir), "."} {
		file, err := d.root.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // there is nothing to keep
		}
		if err != nil {
			return err
		}
		if err := errors.Join(d.sync(file), file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Open implements Store.
func (d *Disk) Open(_ context.Context, upload string, extents []Extent, from, length int64) (io.ReadCloser, error) {
	if err := checkUpload(upload); err != nil {
		return nil, err
	}
	return newReader(extents, from, length, func(extent Extent, from, _ int64) (io.ReadCloser, error) {
		file, err := d.openSegment(upload, extent)
		if err != nil {
			return nil, err
		}
		if _, err := file.Seek(from, io.SeekStart); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		return file, nil
	})
}

// Delete implements Store.
func (d *Disk) Delete(_ context.Context, upload string) error {
	if err := checkUpload(upload); err != nil {
		return err
	}
	// The directory above stays: somebody may be making another one in it.
	return d.root.RemoveAll(directory(upload))
}

// Uploads implements Store.
func (d *Disk) Uploads(ctx context.Context, visit func(upload string, changed time.Time) error) error {
	tree := d.root.FS()
	found, err := fs.Glob(tree, "[0-9a-z][0-9a-z]/*")
	if err != nil {
		return err
	}
	for _, dir := range found {
		upload := path.Base(dir)
		if checkUpload(upload) != nil || directory(upload) != dir {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		changed, err := newest(tree, dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was deleted meanwhile
		}
		if err != nil {
			return err
		}
		if err := visit(upload, changed); err != nil {
			return err
		}
	}
	return nil
}

// newest is when a directory, or a file in it, has changed last.
func newest(tree fs.FS, dir string) (changed time.Time, err error) {
	err = fs.WalkDir(tree, dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.ModTime().After(changed) {
			changed = info.ModTime()
		}
		return err
	})
	return changed, err
}

// Announce implements Store.
func (d *Disk) Announce(_ context.Context, instance string) error {
	if err := checkInstance(instance); err != nil {
		return err
	}
	if err := d.root.MkdirAll(instances, 0o700); err != nil {
		return err
	}
	return d.root.WriteFile(path.Join(instances, instance), nil, 0o600)
}

// Sees implements Store.
func (d *Disk) Sees(_ context.Context, instance string) error {
	if err := checkInstance(instance); err != nil {
		return err
	}
	_, err := d.root.Stat(path.Join(instances, instance))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not the directory that instance %s keeps its uploads in: share one directory or use s3://", d, instance)
	}
	return err
}

// Forget implements Store.
func (d *Disk) Forget(_ context.Context, instance string) error {
	if err := checkInstance(instance); err != nil {
		return err
	}
	err := d.root.Remove(path.Join(instances, instance))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Remembers implements Store.
func (d *Disk) Remembers() bool { return d.policy != SyncChunk }

// Rereads implements Store.
func (d *Disk) Rereads() bool { return d.policy == SyncComplete }

// String implements Store.
func (d *Disk) String() string { return "file://" + d.root.Name() }

// SegmentBytes implements Store: what is synced at once, beside the bytes that follow.
func (d *Disk) SegmentBytes() int64 { return 8 << 20 }
