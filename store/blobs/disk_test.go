package blobs

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTornJournal inherits from journals that end within their last record, at every byte, or whose last record has a byte
// that is another one. Records before it count, it does not, and nothing that comes later does.
func TestTornJournal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := diskIn(dir, SyncComplete)
	w := newWriter(t, open(t), 0, 1)
	must(t, w.send(10))
	must(t, w.commit(t.Context()))
	must(t, w.send(10))
	must(t, w.commit(t.Context()))
	name := filepath.Join(dir, "made", "of", "two", id[:2], id, "0-1.journal")
	whole, err := os.ReadFile(name)
	must(t, err)
	if len(whole) != 3*recordSize {
		t.Fatalf("the journal has %d bytes", len(whole))
	}
	w.acked = 10
	for at := 2 * recordSize; at < 3*recordSize; at++ {
		changed := bytes.Clone(whole)
		changed[at] ^= 0x10
		for _, torn := range [][]byte{whole[:at], changed} {
			must(t, os.WriteFile(name, torn, 0o600))
			inherits(t, open(t), w)
			must(t, w.journalAgain(whole[2*recordSize:])) // as a zombie would
			inherits(t, open(t), w)
			if _, err := open(t).Create(t.Context(), id, 0, 1); err == nil {
				t.Fatal("a segment is made again behind a torn record")
			}
		}
	}
}

// journalAgain appends a record that is whole, wherever the journal ends.
func (w *writer) journalAgain(record []byte) error {
	_, err := w.Segment.(*diskSegment).journal.Write(record)
	return err
}

// TestClosedFiles fails a Commit, and looks that its segment is of no use from there on, but may be inherited.
func TestClosedFiles(t *testing.T) {
	t.Parallel()
	open := diskIn(t.TempDir(), SyncComplete)
	w := newWriter(t, open(t), 0, 1)
	must(t, w.send(10))
	must(t, w.commit(t.Context()))
	must(t, w.send(10))
	must(t, w.Segment.(*diskSegment).journal.Close())
	for range 2 {
		if err := w.commit(t.Context()); err == nil {
			t.Fatal("a Commit without a journal has succeeded")
		}
		if err := w.rollback(); err == nil {
			t.Fatal("a segment that has failed was cut off")
		}
	}
	inherits(t, open(t), w)
}

// TestSealCutsOff looks that sealing leaves no bytes on the disk that do not count.
func TestSealCutsOff(t *testing.T) {
	t.Parallel()
	disk, err := OpenDisk(t.TempDir(), SyncComplete)
	must(t, err)
	w := newWriter(t, disk, 0, 1)
	must(t, w.send(10))
	must(t, w.commit(t.Context()))
	must(t, w.send(10))
	_, err = w.Seal(t.Context())
	must(t, err)
	info, err := disk.root.Stat(w.Segment.(*diskSegment).name)
	must(t, err)
	if info.Size() != 10 {
		t.Errorf("the file has %d bytes", info.Size())
	}
}

// TestPolicies refuses what is none, and makes nothing then.
func TestPolicies(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	if _, err := OpenDisk(dir, "always"); err == nil {
		t.Error("the policy \"always\" is taken")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory was made: %v", err)
	}
	disk, err := OpenDisk(dir, SyncChunk)
	must(t, err)
	info, err := os.Stat(dir)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the directory may be used by others: %s", info.Mode())
	}
	if disk.String() != "file://"+dir {
		t.Errorf("the store is called %s", disk)
	}
}

// TestLinksLeadNowhere puts links to elsewhere where directories and files are expected.
func TestLinksLeadNowhere(t *testing.T) {
	t.Parallel()
	dir, secret := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("not yours"), 0o600))
	disk, err := OpenDisk(dir, SyncNone)
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(dir, id[:2], id), 0o700))
	must(t, os.Symlink(secret, filepath.Join(dir, id[:2], id, "0-1")))
	if got, err := read(t, disk, []Extent{{Size: 9, Epoch: 1}}, 0, 9); err == nil {
		t.Errorf("%q was read from outside", got)
	}
	other := strings.Repeat("z", 26)
	must(t, os.Symlink(filepath.Dir(secret), filepath.Join(dir, other[:2])))
	if _, err := disk.Create(t.Context(), other, 0, 1); err == nil {
		t.Error("a segment was made outside")
	}
}

// power remembers what of a Disk would survive if the power were cut.
type power struct {
	dir   string
	files map[string]int64    // sizes that are safe
	names map[string][]string // entries that are safe, of each directory
}

func newPower(disk *Disk) *power {
	p := &power{dir: disk.root.Name(), files: map[string]int64{}, names: map[string][]string{}}
	disk.Synced = func(name string, size int64) {
		if size >= 0 {
			p.files[name] = size
			return
		}
		entries, err := os.ReadDir(filepath.Join(p.dir, name))
		if err != nil {
			panic(err)
		}
		p.names[name] = nil
		for _, entry := range entries {
			p.names[name] = append(p.names[name], entry.Name())
		}
	}
	return p
}

// cut drops whatever was not synced.
func (p *power) cut(t testing.TB) {
	t.Helper()
	must(t, filepath.WalkDir(p.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == p.dir {
			return err
		}
		name, err := filepath.Rel(p.dir, path)
		if err != nil {
			return err
		}
		if !slices.Contains(p.names[filepath.Dir(name)], entry.Name()) {
			err := os.RemoveAll(path)
			if entry.IsDir() {
				return fs.SkipDir
			}
			return err
		}
		if entry.IsDir() {
			return nil
		}
		return os.Truncate(path, p.files[name])
	}))
}

// TestPowerCut drops what was not synced, and looks at what each policy promises to be there.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for policy, expected := range map[SyncPolicy]struct{ written, sealed, synced bool }{
		SyncChunk: {true, true, true}, SyncComplete: {false, true, true}, SyncNone: {false, false, false},
	} {
		for what, keeps := range map[string]bool{"written": expected.written, "sealed": expected.sealed, "synced": expected.synced} {
			disk, err := OpenDisk(t.TempDir(), policy)
			must(t, err)
			power := newPower(disk)
			w := newWriter(t, disk, 0, 1)
			for range 3 {
				must(t, w.send(1000))
				must(t, w.commit(t.Context()))
			}
			switch what {
			case "sealed":
				_, err = w.Seal(t.Context())
				must(t, err)
			case "synced":
				inherits(t, disk, w)
				must(t, disk.Sync(t.Context(), id, []Extent{{Epoch: 1, Size: 3000}}))
			}
			w.row.extent.Size = 3000
			power.cut(t)
			extent, _, err := w.row.inherit(t.Context(), disk)
			if !keeps {
				is(t, string(policy)+", "+what, err, ErrShort)
				continue
			}
			must(t, err)
			holds(t, disk, extent, w.sent)
		}
	}
}

// TestJournalOutlivesBytes cuts the power so that the journal was saved and the bytes were not: records of bytes that are
// not there do not count.
func TestJournalOutlivesBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk, err := OpenDisk(dir, SyncComplete)
	must(t, err)
	w := newWriter(t, disk, 0, 1)
	for range 3 {
		must(t, w.send(100))
		must(t, w.commit(t.Context()))
	}
	for _, size := range []int{300, 299, 200, 150, 100, 1, 0} {
		must(t, os.Truncate(filepath.Join(dir, id[:2], id, "0-1"), int64(size)))
		w.acked = size / 100 * 100
		inherits(t, disk, w)
	}
}

// TestCommitAllocatesNothing runs alone, for it counts what the whole process allocates.
func TestCommitAllocatesNothing(t *testing.T) {
	w := newWriter(t, diskIn(t.TempDir(), SyncComplete)(t), 0, 1)
	note, chunk := Note{State: make([]byte, 108)}, make([]byte, 100)
	allocations := testing.AllocsPerRun(100, func() {
		_, err := w.Write(chunk)
		must(t, err)
		note.Size += int64(len(chunk))
		_, err = w.Commit(t.Context(), note)
		must(t, err)
	})
	if allocations != 0 {
		t.Errorf("a chunk costs %v allocations", allocations)
	}
}

// BenchmarkCommit compares chunks that are committed with a bare write of them.
func BenchmarkCommit(b *testing.B) {
	chunk := bytes.Repeat([]byte{7}, 64<<10)
	const segment = 8 << 20
	b.Run("bare", func(b *testing.B) {
		b.SetBytes(int64(len(chunk)))
		file, err := os.Create(filepath.Join(b.TempDir(), "bare"))
		must(b, err)
		defer file.Close()
		for written := 0; b.Loop(); written += len(chunk) {
			if written == segment {
				written = 0
				must(b, file.Truncate(0))
				_, err := file.Seek(0, io.SeekStart)
				must(b, err)
			}
			_, err := file.Write(chunk)
			must(b, err)
		}
	})
	for _, policy := range []SyncPolicy{SyncNone, SyncComplete, SyncChunk} {
		b.Run(string(policy), func(b *testing.B) {
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			disk, err := OpenDisk(b.TempDir(), policy)
			must(b, err)
			note := Note{State: make([]byte, 108)}
			var s Segment
			for epoch := int64(0); b.Loop(); epoch++ {
				if s == nil || note.Size == segment {
					if s != nil {
						_, err := s.Seal(b.Context())
						must(b, err)
						must(b, disk.Delete(b.Context(), id))
					}
					note.Size = 0
					s, err = disk.Create(b.Context(), id, 0, epoch)
					must(b, err)
				}
				note.Size += int64(len(chunk))
				_, err := s.Write(chunk)
				must(b, err)
				_, err = s.Commit(b.Context(), note)
				must(b, err)
			}
			must(b, s.Close())
		})
	}
}
