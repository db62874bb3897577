package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
)

// TestUploadWithoutDatabase takes Postgres away for some seconds while chunks come. They may be refused for now; nothing that
// was acknowledged is lost, and the upload goes on.
func TestUploadWithoutDatabase(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	link := pgtest.NewLink(t, s.url)
	p := s.serve(t, "--database-url="+link.URL)
	u := newUploader(t, p.url, speeches()[0], 16<<20)
	u.create()
	u.run(1 << 20)
	link.Away()
	back := time.AfterFunc(3*time.Second, link.Back)
	defer back.Stop()
	refused := 0
	for deadline := time.Now().Add(patience); u.offset < len(u.file); {
		err := u.send(u.next(len(u.file)), -1)
		if err == nil {
			continue
		}
		for err != nil {
			var answer *refusedError
			if !errors.As(err, &answer) || answer.status != http.StatusServiceUnavailable || answer.header.Get("Retry-After") == "" {
				t.Fatalf("without Postgres: %v", err)
			}
			if refused++; time.Now().After(deadline) {
				t.Fatalf("the upload does not go on: %v", err)
			}
			<-time.After(20 * time.Millisecond)
			err = u.look()
		}
	}
	if refused == 0 {
		t.Fatal("nothing was refused: Postgres was not away")
	}
	u.arrived(s)
	if got := s.news(t, u.stands().ID); !slices.Equal(got, []string{"document_uploaded"}) {
		t.Errorf("the log has %v", got)
	}
	t.Logf("%d requests were refused", refused)
}

// TestUploadStalls sends a part of a body and then nothing: the request ends after 30 seconds, and what came is kept.
func TestUploadStalls(t *testing.T) {
	s := newShelf(t)
	p := s.serve(t)
	u := newUploader(t, p.url, onePut(), 4<<20)
	u.client.Timeout = 0
	u.create()
	began := time.Now()
	stalled := u.launch()
	stalled.send(u.file[:1500<<10])
	t.Parallel() // only now: other tests take the time
	select {
	case <-stalled.done:
	case <-time.After(30*time.Second + patience):
		t.Fatal("a body that does not come is waited for")
	}
	if took := stalled.ended.Sub(began); took < 29*time.Second || took > 30*time.Second+patience {
		t.Errorf("the request has ended after %s", took)
	}
	if stalled.err != nil || stalled.got.status != http.StatusRequestTimeout || stalled.got.offset() != 1500<<10 {
		t.Fatalf("a body that does not come is answered %v (%v)", stalled.got, stalled.err)
	}
	u.acked, u.sent = 1500<<10, 1500<<10
	if err := u.look(); err != nil {
		t.Fatal(err)
	}
	u.run(len(u.file))
	u.arrived(s)
}

// pages is a file that repeats itself, whose size does not matter to its reader.
type pages struct{ at, size int }

func (p *pages) Read(b []byte) (int, error) {
	if p.at == p.size {
		return 0, io.EOF
	}
	from := p.at % (1 << 20)
	n := copy(b[:min(len(b), p.size-p.at)], theFile()[from:1<<20])
	p.at += n
	return n, nil
}

// TestUploadMemory takes a small file and a large one: the instance needs no more memory for the large one.
func TestUploadMemory(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	p := s.serve(t, "--upload-max-size=3GiB")
	var peaks []int
	for _, size := range []int{64 << 20, 512 << 20} {
		u := newUploader(t, p.url, onePut(), 0)
		u.client.Timeout = 2 * patience
		body := fmt.Sprintf(`{"filename":"a.pdf","mimeType":"application/pdf","size":%d}`, size)
		got, err := u.request(http.MethodPost, "/v2/uploads", []string{"Content-Type", "application/json"}, strings.NewReader(body), len(body))
		if err != nil || got.status != http.StatusCreated {
			t.Fatal(got, err)
		}
		got, err = u.request(http.MethodPut, u.at, nil, &pages{size: size}, size)
		if err != nil || got.status != http.StatusOK || u.stands().State != "ready" {
			t.Fatal(got, err)
		}
		u.delete()
		peaks = append(peaks, p.peak())
	}
	t.Logf("the peaks are %d and %d MiB", peaks[0]>>20, peaks[1]>>20)
	if peaks[1]-peaks[0] > 64<<20 {
		t.Error("the instance needs more memory for the larger file")
	}
}

// peak is the most memory that the instance has had so far, in bytes, the race detector's included.
func (p *process) peak() int {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			kib, err := strconv.Atoi(fields[1])
			if err != nil {
				p.t.Fatal(err)
			}
			return kib << 10
		}
	}
	p.t.Fatal("the system does not tell the peak of memory")
	return 0
}
