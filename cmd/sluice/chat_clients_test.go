package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestChatPackage has the npm package ws hold a conversation, at two instances.
func TestChatPackage(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	place := chatPlace{t, "1", []string{serve(t, flags...).url, serve(t, flags...).url}}
	alice, bob := place.user("alice", "sse and POST"), place.user("bob", "sse and POST")
	bob.calls(http.StatusOK, http.MethodGet, "/v2/rooms", nil, nil) // which tells the server who bob is
	room := alice.opens("Package", "bob").ID
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	command := exec.CommandContext(ctx, installed(t, "node"), filepath.Join(folder, "chat.js"), place.to[0], alice.token, place.to[1], bob.token, room)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// wscat is that program in a room: what it is told goes up, and what comes down it prints.
type wscat struct {
	t       *testing.T
	command *exec.Cmd
	in      io.Writer
	lines   chan string
	errors  bytes.Buffer
}

func startWscat(t *testing.T, args ...string) *wscat {
	t.Helper()
	w := &wscat{t: t, lines: make(chan string, 1000)}
	w.command = exec.Command(installed(t, "node"), append([]string{installed(t, "wscat")}, args...)...)
	w.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.command.Stderr = &w.errors
	in, err := w.command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.in = in
	out, err := w.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.command.Process.Kill()
		_ = w.command.Wait()
	})
	go func() {
		defer close(w.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			line := lines.Text()
			for strings.HasPrefix(line, "> ") { // its prompts
				line = line[2:]
			}
			w.lines <- line
		}
	}()
	return w
}

func (w *wscat) tell(line string) {
	w.t.Helper()
	if _, err := io.WriteString(w.in, line+"\n"); err != nil {
		w.t.Fatal(err)
	}
}

// prints waits for a line that has all of these in it.
func (w *wscat) prints(parts ...string) string {
	w.t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case line, ok := <-w.lines:
			if !ok {
				w.t.Fatalf("wscat has ended before %q: %s", parts, w.errors.String())
			}
			if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
				return line
			}
		case <-deadline:
			w.t.Fatalf("wscat never prints %q", parts)
		}
	}
}

// TestChatWscat has wscat hold a conversation, as one does by hand.
func TestChatWscat(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	to := []string{serve(t, flags...).url, serve(t, flags...).url}
	place := chatPlace{t, "1", to}
	alice, bob, heard := place.user("alice", "socket"), place.user("bob", "sse and POST").from(1).come(), 0
	room := alice.opens("By hand", "bob").ID
	bob.hears(&heard, "member_added bob")
	w := startWscat(t, "--slash", "--show-ping-pong", "--header", "Authorization: Bearer "+alice.token,
		"--connect", strings.Replace(to[0], "http", "ws", 1)+"/v2/rooms/"+room+"/stream")
	w.prints(`"type":"ack"`)
	w.tell(fmt.Sprintf(`{"type":"send","room":%q,"clientId":"1","text":"hello","ref":"first"}`, room))
	answer := w.prints(`"type":"ok"`, `"ref":"first"`)
	var ok struct{ Result chatMessage }
	if err := json.Unmarshal([]byte(answer), &ok); err != nil || ok.Result.Seq != 1 || ok.Result.Text != "hello" {
		t.Errorf("%s: %v", answer, err)
	}
	bob.hears(&heard, "message_created 1 alice hello")
	w.tell("/ping are-you-there")
	w.prints("Received pong", "are-you-there")
	w.tell(`{"type":"nonsense","ref":"none"}`)
	w.prints(`"problem"`, `"ref":"none"`, "400")
	w.tell(fmt.Sprintf(`{"type":"typing","room":%q,"ref":"second"}`, room))
	w.prints(`"ok"`, `"ref":"second"`)
	bob.await("alice types", func() bool {
		return slices.ContainsFunc(bob.signals, func(s chatSignal) bool { return s.Type == "typing" && s.UserID == "alice" })
	})
	bob.says(room, "hi")
	w.prints(`"message_created"`, `"seq":2`, `"text":"hi"`)
	w.tell(fmt.Sprintf(`{"type":"history","room":%q,"ref":"third"}`, room))
	w.prints(`"ref":"third"`, `"messages":[{"seq":1,`, `"hasMore":false`)
	w.tell(`{"type":"history","room":"nowhere","ref":"fourth"}`)
	w.prints(`"problem"`, `"ref":"fourth"`, "404")
	w.tell(fmt.Sprintf(`{"type":"read","room":%q,"seq":2,"ref":"fifth"}`, room))
	w.prints(`"ok"`, `"ref":"fifth"`)
	bob.hears(&heard, "message_created 2 bob hi", "read 2 alice")
	w.tell("/close 1000 bye")
	for range w.lines { // until it ends
	}
	if err := w.command.Wait(); err != nil {
		t.Errorf("wscat: %v: %s", err, w.errors.String())
	}
}
