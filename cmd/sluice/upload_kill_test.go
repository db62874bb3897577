package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// someTime is a moment within so much time that nobody can guess.
func someTime(most time.Duration) <-chan time.Time {
	return time.After(time.Duration(rand.Int64N(int64(most))))
}

// TestUploadKilled kills the instance that writes, again and again at any moment, and starts it anew: no offset that was
// acknowledged is lost, whatever is synced, and the file is right in the end.
func TestUploadKilled(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"complete", "none"} {
		t.Run(policy, func(t *testing.T) {
			s := newShelf(t)
			flags := []string{"--upload-sync=" + policy, "--listen=" + freePort(t)}
			p := s.serve(t, flags...)
			for i := range 3 {
				// Chunks with a digest count as a whole or not at all, others also in part.
				speech := *speeches()[i%2]
				speech.chunk = 64 << 10
				u := newUploader(t, p.url, &speech, 12<<20)
				u.create()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					u.runOn(len(u.file))
				}()
				for range 2 {
					select {
					case <-someTime(400 * time.Millisecond):
					case <-ended:
					}
					p.kill()
					p = s.serve(t, flags...)
				}
				select {
				case <-ended:
				case <-time.After(2 * patience):
					t.Fatal("the upload does not end")
				}
				if u.offset%speech.chunk != 0 {
					t.Fatalf("the upload ended at %d", u.offset)
				}
				u.arrived(s)
			}
		})
	}
}

// TestUploadKilledAtItsEnd kills the instance that writes when it has got the last byte, before or while or after the upload
// is verified. Another one finishes it, and the log says so once.
func TestUploadKilledAtItsEnd(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	b := s.serve(t)
	for range 5 {
		a := s.serve(t)
		u := newUploader(t, a.url, onePut(), 48<<20)
		u.create()
		last := u.launch()
		u.sent = len(u.file)
		last.send(u.file)
		last.body.Close()
		<-someTime(50 * time.Millisecond)
		a.kill()
		<-last.done
		began := time.Now()
		n := u.elsewhere(b)
		n.lookAgain()
		stood := n.offset
		n.runOn(len(n.file))
		until(t, "the upload is not finished", func() bool { return n.stands().State == "ready" })
		n.arrived(s)
		if took := time.Since(began); took > 2*takeoverMost {
			t.Errorf("it is ready after %s", took)
		}
		if got := s.news(t, n.stands().ID); !slices.Equal(got, []string{"document_uploaded"}) {
			t.Fatalf("the log has %v", got)
		}
		t.Logf("answered before the kill: %t; the upload stood at %d of %d, and is ready after %s", last.err == nil, stood, len(u.file), time.Since(began))
		n.delete()
	}
}

// TestUploadKilledWhileVerified kills the instance that verifies an upload before it can tell the log, and sends nobody to ask:
// another one finishes it by itself.
func TestUploadKilledWhileVerified(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	a, b := s.serve(t), s.serve(t)
	u := newUploader(t, a.url, onePut(), 1<<20)
	u.create()
	tx, err := s.db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`lock table sluice.events in share mode`); err != nil { // nothing can be appended
		t.Fatal(err)
	}
	last := u.launch()
	last.send(u.file)
	last.body.Close()
	until(t, "the upload is not verified", func() bool { return u.stands().State == "verifying" })
	a.kill()
	<-last.done
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	u.base = b.url
	until(t, "the upload is not finished", func() bool { return u.stands().State == "ready" })
	if took := time.Since(began); took > 2*takeoverMost {
		t.Errorf("it is ready after %s", took)
	}
	u.arrived(s)
	if got := s.news(t, u.stands().ID); !slices.Equal(got, []string{"document_uploaded"}) {
		t.Fatalf("the log has %v", got)
	}
	t.Logf("ready after %s", time.Since(began))
}
