package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tmaxmax/go-sse"
)

// reader is a client that nobody here wrote, and what came of it so far.
type reader struct {
	name   string
	frames []string // the kinds that it must be given, whatever else comes

	changed chan struct{} // has room for one: something came since it was looked at

	mu     sync.Mutex
	events []string        // guarded by mu: id and text of each
	kinds  map[string]bool // guarded by mu: of the frames
	wrong  []string        // guarded by mu: what must not be
	cursor string          // guarded by mu: of the last frame
	group  int             // guarded by mu: of the processes that read now; 0: none
	notes  logs            // what it said beside
}

// read takes what a client prints, a frame a line. The last line may have been cut.
func (r *reader) read(from io.Reader) {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		if err == nil || json.Valid(line) {
			r.take(line)
		}
		if err != nil {
			return
		}
	}
}

// readSSE takes what a client prints that knows nothing of SSE.
func (r *reader) readSSE(from io.Reader) {
	for one, err := range sse.Read(from, &sse.ReadConfig{MaxEventSize: 1 << 20}) {
		switch {
		case err != nil:
			return
		case one.Type == "finance":
			r.take(fmt.Appendf(nil, `{"type":"event","cursor":%q,"event":%s}`, one.LastEventID, one.Data))
		default:
			r.take(fmt.Appendf(nil, `{"type":%q,"cursor":%q}`, one.Type, one.LastEventID))
		}
	}
}

// take judges one frame: as NDJSON and WebSockets have it, or a poll's answer, or an event alone, as sluice tail prints it.
func (r *reader) take(line []byte) {
	type event struct {
		ID, Cursor string
		Data       struct{ Text string }
	}
	var frame struct {
		Type, Cursor string
		Event        *event
		Events       []event
		Reset        any
		event
	}
	if err := json.Unmarshal(line, &frame); err != nil {
		r.fail(fmt.Sprintf("%.200q: %v", line, err))
		return
	}
	defer r.change()
	r.mu.Lock()
	defer r.mu.Unlock()
	events := frame.Events
	switch frame.Type {
	case "event":
		events = []event{*frame.Event}
	case "expense_added":
		events = []event{frame.event}
		frame.Cursor = frame.event.Cursor
	case "batch", "ack", "ping", "reset", "drain", "problem", "":
		r.kinds[frame.Type] = true
	default:
		r.wrong = append(r.wrong, string(line))
	}
	if frame.Reset != nil {
		r.kinds["reset"] = true
	}
	for _, one := range events {
		r.events = append(r.events, one.ID+one.Data.Text)
	}
	if n := len(events); n > 0 && frame.Cursor != events[n-1].Cursor && frame.Type != "" {
		r.wrong = append(r.wrong, fmt.Sprintf("the cursor is %s: %.200s", frame.Cursor, line))
	}
	if frame.Cursor != "" {
		r.cursor = frame.Cursor
	}
}

// change has who waits for the reader look at it again.
func (r *reader) change() {
	select {
	case r.changed <- struct{}{}:
	default: // it is about to
	}
}

// missing says what is not there yet of the events and of the kinds of frames, and whether anything is wrong for good.
func (r *reader) missing(want, kinds []string) (text string, wrong bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Clone(r.wrong)
	for i, got := range r.events {
		if i >= len(want) || got != want[i] {
			list = append(list, fmt.Sprintf("event %d is %.40q", i, got))
			break
		}
	}
	wrong = len(list) > 0
	if len(r.events) < len(want) {
		list = append(list, fmt.Sprintf("%d of %d events", len(r.events), len(want)))
	}
	for _, kind := range kinds {
		if slices.Contains(r.frames, kind) && !r.kinds[kind] {
			list = append(list, "no "+kind)
		}
	}
	return strings.Join(list, ", "), wrong
}

// readers are the clients of one test. They end with it.
type readers struct {
	t     *testing.T
	quit  chan struct{}
	group sync.WaitGroup

	mu   sync.Mutex
	list []*reader // guarded by mu; the test alone adds to it, and needs no lock to read it
}

func newReaders(t *testing.T) *readers {
	all := &readers{t: t, quit: make(chan struct{})}
	t.Cleanup(func() {
		close(all.quit)
		all.group.Wait()
	})
	return all
}

func (all *readers) add(name string, frames ...string) *reader {
	r := &reader{name: name, frames: frames, changed: make(chan struct{}, 1), kinds: map[string]bool{}, cursor: "earliest"}
	all.mu.Lock()
	defer all.mu.Unlock()
	all.list = append(all.list, r)
	return r
}

// named finds a reader; nil: there is none.
func (all *readers) named(name string) *reader {
	all.mu.Lock()
	defer all.mu.Unlock()
	for _, r := range all.list {
		if r.name == name {
			return r
		}
	}
	return nil
}

// run starts a program and takes what it prints until it ends or the test does; then nothing of it is left.
func (all *readers) run(r *reader, command *exec.Cmd, read func(io.Reader)) error {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	command.Stderr = &r.notes
	// A program that reads its standard input, as wscat does, finds it open.
	in, err := command.StdinPipe()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	r.runs(command.Process.Pid)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		read(out)
	}()
	select {
	case <-ended:
	case <-all.quit:
		_ = command.Process.Signal(syscall.SIGTERM) // a browser reaps what it has started
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
		}
	}
	r.runs(0)
	_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
	<-ended
	_ = command.Wait() // it was killed, or says itself what went wrong
	return nil
}

func (r *reader) runs(group int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.group = group
}

// signal tells all programs that read now.
func (all *readers) signal(signal syscall.Signal) {
	for _, r := range all.list {
		r.mu.Lock()
		if r.group != 0 {
			_ = syscall.Kill(-r.group, signal)
		}
		r.mu.Unlock()
	}
}

func (r *reader) fail(what string) {
	defer r.change()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong = append(r.wrong, what)
}

// once runs a client that comes back by itself, and has no right to end.
func (all *readers) once(r *reader, read func(io.Reader), command *exec.Cmd) {
	all.group.Go(func() {
		err := all.run(r, command, read)
		select {
		case <-all.quit:
		default:
			r.fail(fmt.Sprintf("it has ended (%v)", err))
		}
	})
}

// again runs a client that does not come back by itself: from the cursor that it got to, until the test ends.
func (all *readers) again(r *reader, read func(io.Reader), command func(cursor string) *exec.Cmd) {
	all.group.Go(func() {
		for {
			r.mu.Lock()
			from := r.cursor
			r.mu.Unlock()
			if err := all.run(r, command(from), read); err != nil {
				r.fail(err.Error())
				return
			}
			select {
			case <-all.quit:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

// await waits until every reader has exactly these events and was given those kinds of frames that it must be given.
func (all *readers) await(want []string, kinds ...string) {
	all.t.Helper()
	deadline := time.After(2 * patience) // they all start at once, and a browser with them
	for _, r := range all.list {
		for {
			missing, wrong := r.missing(want, kinds)
			if missing == "" {
				break
			}
			if wrong {
				all.failNow(want, kinds)
			}
			select {
			case <-r.changed:
			case <-deadline:
				all.failNow(want, kinds)
			}
		}
	}
}

// failNow tells what every reader misses.
func (all *readers) failNow(want, kinds []string) {
	all.t.Helper()
	for _, r := range all.list {
		if missing, _ := r.missing(want, kinds); missing != "" {
			all.t.Errorf("%s: %s; it said %.2000s", r.name, missing, r.notes.String())
		}
	}
	all.t.FailNow()
}
