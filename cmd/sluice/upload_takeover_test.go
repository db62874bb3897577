package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// takeoverMost is how long taking over may last here. Whoever runs the tests alone sees much less, which the log of the test tells.
const takeoverMost = 5 * time.Second

// flight is a request whose body comes as the test has it.
type flight struct {
	t    testing.TB
	body *io.PipeWriter
	done chan struct{} // closed with the answer

	got   *told
	err   error
	ended time.Time
}

// launch begins the request that brings the rest of the file, without a digest.
func (u *uploader) launch() *flight {
	u.t.Helper()
	from, to := io.Pipe()
	f := &flight{t: u.t, body: to, done: make(chan struct{})}
	method, headers := u.speech.part(u, len(u.file))
	go func() {
		defer func() { f.ended = time.Now(); close(f.done) }()
		f.got, f.err = u.request(method, u.at, headers, from, len(u.file)-u.offset)
		from.Close()
	}()
	u.t.Cleanup(func() { to.Close(); <-f.done })
	return f
}

func (f *flight) send(part []byte) {
	f.t.Helper()
	if _, err := f.body.Write(part); err != nil {
		f.t.Fatal(err)
	}
}

// refused waits for the answer of a request that another one has taken over from.
func (f *flight) refused() {
	f.t.Helper()
	select {
	case <-f.done:
	case <-time.After(patience):
		f.t.Fatal("the older request is not answered")
	}
	if f.err != nil || f.got.status != http.StatusConflict || f.got.offset() < 0 {
		f.t.Fatalf("the older request is answered %v (%v)", f.got, f.err)
	}
}

// elsewhere is another client of the same upload, at another instance, that knows nothing but its URL.
func (u *uploader) elsewhere(p *process) *uploader {
	other := newUploader(u.t, p.url, u.speech, len(u.file))
	other.at, other.acked, other.sent = u.at, u.acked, u.sent
	return other
}

// takeOver asks for the offset and sends the next bytes, and gives the time that both took.
func (u *uploader) takeOver() time.Duration {
	u.t.Helper()
	began := time.Now()
	u.lookAgain()
	if err := u.send(u.offset+1000, -1); err != nil {
		u.t.Fatalf("who has taken over is refused: %v", err)
	}
	took := time.Since(began)
	if took > takeoverMost {
		u.t.Errorf("taking over took %s", took)
	}
	return took
}

// onePut is the dialect whose bodies have no digest.
func onePut() *speech { return speeches()[1] }

// TestUploadBalanced sends each request of an upload to another instance than the last, in all dialects.
func TestUploadBalanced(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	at := balance(t, s.serve(t), s.serve(t))
	for _, speech := range speeches() {
		small := *speech
		if speech.chunk != 64<<10 {
			small.chunk = 512 << 10
		}
		began := time.Now()
		u := newUploader(t, at, &small, 3<<20+5)
		u.create()
		u.run(len(u.file))
		u.arrived(s)
		t.Logf("%s: %d takeovers in %s", speech.name, len(u.file)/small.chunk, time.Since(began))
	}
}

// TestUploadTakeover has a client go on at another instance than the one that writes its upload: one that is idle, one with
// a body on its way, one that was killed, and one that was stopped.
func TestUploadTakeover(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	b := s.serve(t)
	for _, one := range []struct {
		owner string
		body  bool
		then  func(testing.TB, *process)
	}{
		{"idle", false, nil},
		{"busy", true, nil},
		{"stopped", false, stopProcess},
		{"stopped with a body on its way", true, stopProcess},
		{"killed", false, killProcess},
		{"killed with a body on its way", true, killProcess},
	} {
		a := s.serve(t)
		var took []time.Duration
		for range map[bool]int{true: 4, false: 1}[one.then == nil] {
			u := newUploader(t, a.url, onePut(), 32<<20)
			u.create()
			if err := u.send(1<<20, -1); err != nil {
				t.Fatal(err)
			}
			var busy *flight
			if one.body {
				busy = u.launch()
				u.sent = 24 << 20
				busy.send(u.file[1<<20 : u.sent])
				until(t, "the body is not read", func() bool { return u.stands().Offset >= 8<<20 })
				u.acked = 8 << 20
			}
			if one.then != nil {
				one.then(t, a)
			}
			n := u.elsewhere(b)
			took = append(took, n.takeOver())
			if one.body && one.then == nil {
				busy.refused()
			}
			n.run(len(n.file))
			n.arrived(s)
			n.delete()
		}
		t.Logf("%s: taken over from in %v", one.owner, took)
		a.kill()
	}
}

func killProcess(_ testing.TB, p *process) { p.kill() }

// stopProcess returns once none of its threads runs any more.
func stopProcess(t testing.TB, p *process) {
	t.Helper()
	if err := p.command.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	tasks := fmt.Sprintf("/proc/%d/task/*/stat", p.command.Process.Pid)
	until(t, "the instance does not stop", func() bool {
		files, _ := filepath.Glob(tasks)
		for _, file := range files {
			text, err := os.ReadFile(file)
			if _, state, _ := strings.Cut(string(text), ") "); err != nil || !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return len(files) > 0
	})
}

// TestUploadZombie stops an instance with a body on its way and lets it go on once another one has taken over: its client is told,
// and of what it still brings nothing counts.
func TestUploadZombie(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	a, b := s.serve(t), s.serve(t)
	wrong := []byte(strings.Repeat("not of the file ", 4<<10))
	for _, one := range []struct {
		what string
		to   int // that the successor brings the upload before the zombie goes on
	}{{"the upload is under way", 20 << 20}, {"the upload is ready", 32 << 20}} {
		u := newUploader(t, a.url, onePut(), 32<<20)
		u.create()
		zombie := u.launch()
		u.sent = 16 << 20
		zombie.send(u.file[:u.sent])
		until(t, "the body is not read", func() bool { return u.stands().Offset >= 4<<20 })
		stopProcess(t, a)
		zombie.send(wrong)
		u.acked = 4 << 20
		n := u.elsewhere(b)
		n.takeOver()
		n.run(one.to)
		if err := a.command.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for range 32 {
			if _, err := zombie.body.Write(wrong); err != nil {
				break // it is answered
			}
		}
		zombie.refused()
		n.runOn(len(n.file))
		n.arrived(s)
		t.Logf("%s: the zombie was told %d", one.what, zombie.got.offset())
	}
}
