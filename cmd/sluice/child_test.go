package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// child is a program that a test has started: in the foreground, and nobody's service.
type child struct {
	process *os.Process
	said    *logs
	gone    chan struct{} // closed when it has ended and is reaped
}

// startChild runs a program in a directory until the test ends, however that ends: where the test is killed, the kernel
// asks the program to end. Some refuse to be root, and then belong to an owner, to whom the directory is given.
func startChild(t testing.TB, dir string, owner *syscall.Credential, name string, args ...string) *child {
	t.Helper()
	if owner != nil {
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	program, err := exec.LookPath(name)
	if err != nil {
		program = "/usr/sbin/" + name // where Debian has it, outside an ordinary user's PATH
	}
	c := &child{said: new(logs), gone: make(chan struct{})}
	command := exec.Command(program, args...)
	command.Dir, command.Stdout, command.Stderr = dir, c.said, c.said
	command.SysProcAttr = &syscall.SysProcAttr{Credential: owner, Pdeathsig: syscall.SIGTERM}
	if err := command.Start(); err != nil {
		t.Fatalf("%v: scripts/install.sh --test installs %s", err, name)
	}
	c.process = command.Process
	go func() {
		defer close(c.gone)
		_ = command.Wait()
	}()
	t.Cleanup(func() {
		c.end(syscall.SIGTERM) // nginx takes its worker along, and would leave it where it is killed
		if t.Failed() {
			t.Logf("%s said:\n%s", name, c.said)
		}
	})
	return c
}

// end sends a signal and waits until the program has ended, which is killed where it does not.
func (c *child) end(signal syscall.Signal) {
	_ = c.process.Signal(signal)
	select {
	case <-c.gone:
	case <-time.After(patience):
		_ = c.process.Kill()
		<-c.gone
	}
}

// await waits until the program does what it is started for.
func (c *child) await(t testing.TB, does func() bool) {
	t.Helper()
	if err := c.awaitOr(does); err != nil {
		t.Fatalf("%v: %s", err, c.said)
	}
}

// awaitOr says why a program does not do what it is started for.
func (c *child) awaitOr(does func() bool) error {
	deadline := time.After(patience)
	for !does() {
		select {
		case <-c.gone:
			return errors.New("the program has ended")
		case <-deadline:
			return errors.New("the program does not answer")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}
