package blobs

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// childVariable makes the test's binary a writer that never ends by itself: it names the store.
const childVariable = "SLUICE_TEST_BLOBS_CHILD"

func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CA_BUNDLE": "", // reading one takes longer than a test
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	if where := os.Getenv(childVariable); where != "" {
		fmt.Fprintln(os.Stderr, writeForEver(context.Background(), where, os.Getenv(childVariable+"_POLICY")))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// acknowledged is a line of the child: what it was told.
type acknowledged struct {
	Size int64
	Mark []byte
}

// pattern is the byte at an offset of what the child writes.
func pattern(offset int64) byte { return byte(offset*7 ^ offset>>8) }

// writeForEver writes a segment, in pieces and Commits of any size, and prints each Commit that has succeeded.
func writeForEver(ctx context.Context, where, policy string) error {
	var (
		store Store
		err   error
	)
	if policy == "" {
		store, err = OpenS3(ctx, where)
	} else {
		store, err = OpenDisk(where, SyncPolicy(policy))
	}
	if err != nil {
		return err
	}
	segment, err := store.Create(ctx, id, 0, 1)
	if err != nil {
		return err
	}
	var size int64
	out := json.NewEncoder(os.Stdout)
	for {
		for range 1 + rand.IntN(3) {
			piece := make([]byte, rand.IntN(20_000))
			for i := range piece {
				piece[i] = pattern(size + int64(i))
			}
			if _, err := segment.Write(piece); err != nil {
				return err
			}
			size += int64(len(piece))
		}
		mark, err := segment.Commit(ctx, note(int(size)))
		if err != nil {
			return err
		}
		if err := out.Encode(acknowledged{size, mark}); err != nil {
			return err
		}
	}
}

// TestKill kills writers with SIGKILL wherever they are, and looks that all is there that they had acknowledged.
func TestKill(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"chunk", "complete", "none", ""} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			for range 8 {
				kill(t, policy)
			}
		})
	}
}

// kill lets a child write for a while, kills it and takes over.
func kill(t *testing.T, policy string) {
	t.Helper()
	var (
		store Store
		where string
	)
	if policy == "" {
		f := newFake(t)
		store, where = f.openParts(t, partBytes), f.url
	} else {
		disk, err := OpenDisk(t.TempDir(), SyncPolicy(policy))
		must(t, err)
		store, where = disk, disk.root.Name()
	}
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childVariable+"="+where, childVariable+"_POLICY="+policy)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	lines := bufio.NewReader(out)
	_, err = lines.Peek(1)
	must(t, err)
	timer := time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { child.Process.Kill() })
	defer timer.Stop()
	var last acknowledged
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			break // what there is of the last line was acknowledged to nobody
		}
		must(t, err)
		last = acknowledged{}
		must(t, json.Unmarshal(line, &last))
	}
	if err := child.Wait(); err == nil || child.ProcessState.ExitCode() != -1 {
		t.Fatalf("the child was not killed: %v", err)
	}
	extent := Extent{Epoch: 1}
	if !store.Remembers() {
		extent.Size, extent.Mark = last.Size, last.Mark
	}
	extent, notes, err := store.Inherit(t.Context(), id, extent)
	must(t, err)
	if extent.Size < last.Size {
		t.Fatalf("%d bytes were acknowledged, %d are left", last.Size, extent.Size)
	}
	known := slices.ContainsFunc(notes, func(n Note) bool { return n.Size == last.Size })
	if store.Remembers() && !known {
		t.Error("the note of the last Commit that was acknowledged is not known")
	}
	expected := make([]byte, extent.Size)
	for i := range expected {
		expected[i] = pattern(int64(i))
	}
	holds(t, store, extent, expected)
}
