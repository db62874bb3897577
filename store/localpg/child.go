package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// supervise runs Postgres until Stop, and again whenever it dies. It holds one thread for all of that: the kernel ends
// the child when the thread that spawned it ends, not when the process does.
func (c *Cluster) supervise(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(c.finished)
	for attempt := 0; ; attempt++ {
		began := time.Now()
		err := c.runOnce(started)
		started = nil
		select {
		case <-c.stop:
			return
		default:
		}
		if time.Since(began) > time.Minute {
			attempt = 0
		}
		c.log.Error("the private Postgres has ended; starting it again", "err", err)
		select {
		case <-c.stop:
			return
		case <-time.After(min(5*time.Second, time.Duration(attempt)*200*time.Millisecond)):
		}
		c.clearDead()
	}
}

// runOnce starts Postgres, tells on started when it answers, and returns when it has ended.
func (c *Cluster) runOnce(started chan<- error) error {
	tell := func(err error) {
		if started != nil {
			started <- err
		}
	}
	command := exec.Command(filepath.Join(c.bin, "postgres"), c.arguments()...)
	out := &lastLines{log: c.log}
	command.Stdout, command.Stderr = out, out
	c.owner.apply(command)
	dieWithParent(command)
	if err := command.Start(); err != nil {
		tell(err)
		return err
	}
	c.mu.Lock()
	c.child = command
	c.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	defer func() {
		c.mu.Lock()
		c.child = nil
		c.mu.Unlock()
	}()
	ready := false
	deadline := time.After(startWait)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	stop := c.stop
	for {
		select {
		case err := <-ended:
			if !ready {
				err = fmt.Errorf("postgres did not start: %v: %s", err, out.tail())
				tell(err)
			}
			return err
		case <-poll.C:
			if !ready && c.answers(command.Process.Pid) {
				ready = true
				poll.Stop()
				tell(nil)
			}
		case <-deadline:
			if !ready {
				_ = command.Process.Signal(syscall.SIGQUIT)
			}
		case <-stop:
			stop = nil
			_ = command.Process.Signal(syscall.SIGINT) // fast shutdown
		}
	}
}

func (c *Cluster) arguments() []string {
	settings := map[string]string{
		"listen_addresses": "", "unix_socket_directories": c.sockets, "port": "5432", "unix_socket_permissions": "0700",
		"max_connections": "100", "shared_buffers": "64MB", "max_wal_size": "512MB", "log_timezone": "UTC", "timezone": "UTC",
		"log_min_messages": "warning", "logging_collector": "off", "log_destination": "stderr",
	}
	for name, value := range c.settings {
		settings[name] = value
	}
	arguments := []string{"-D", c.dir}
	for name, value := range settings {
		arguments = append(arguments, "-c", name+"="+value)
	}
	return arguments
}

// lastLines passes what Postgres says to the log, and keeps the end of it for the error of a failed start.
type lastLines struct {
	log  *slog.Logger
	kept []byte
}

func (l *lastLines) Write(p []byte) (int, error) {
	l.kept = append(l.kept, p...)
	if len(l.kept) > 4<<10 {
		l.kept = append([]byte(nil), l.kept[len(l.kept)-2<<10:]...)
	}
	for line := range strings.Lines(string(p)) {
		l.log.Debug("postgres", "says", strings.TrimSpace(line))
	}
	return len(p), nil
}

func (l *lastLines) tail() string { return strings.TrimSpace(string(l.kept)) }

var _ io.Writer = (*lastLines)(nil)

// postmasterPID reads the number of the process that a cluster's postmaster.pid names; 0 for none.
func postmasterPID(dir string) int {
	text, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, _ := strconv.Atoi(strings.TrimSpace(first))
	return pid
}

// replaceOrphan ends the Postgres of an instance that was killed. We hold the data directory, so nobody else wants it.
func (c *Cluster) replaceOrphan(ctx context.Context) error {
	pid := postmasterPID(c.dir)
	if pid == 0 || !c.serves(pid) {
		c.clearDead()
		return nil
	}
	c.log.Warn("the Postgres of an earlier instance still runs; stopping it", "pid", pid)
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("the Postgres of an earlier instance (process %d) cannot be stopped: %w", pid, err)
	}
	patience := time.After(replaceWait)
	for c.serves(pid) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-patience:
			return fmt.Errorf("the Postgres of an earlier instance (process %d) does not stop", pid)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.clearDead()
	return nil
}

// serves says whether a process lives and is a Postgres of this cluster. A zombie, which nobody has reaped, still has its
// number and holds nothing any more; a number that was given to another program is not ours.
func (c *Cluster) serves(pid int) bool {
	if syscall.Kill(pid, 0) == syscall.ESRCH {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) || runtime.GOOS != "linux"
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	if strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X") {
		return false
	}
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Contains(string(line), c.dir)
}

// clearDead removes the locks of a postmaster that is gone. Postgres does so itself unless the number in them belongs to
// a process that lives, or to a zombie.
func (c *Cluster) clearDead() {
	if pid := postmasterPID(c.dir); pid != 0 && !c.serves(pid) {
		_ = os.Remove(filepath.Join(c.dir, "postmaster.pid"))
	}
	lock := filepath.Join(c.sockets, socketName+".lock")
	text, err := os.ReadFile(lock)
	first, _, _ := strings.Cut(string(text), "\n")
	if pid, _ := strconv.Atoi(strings.TrimSpace(first)); err == nil && !c.serves(pid) {
		_ = os.Remove(lock)
		_ = os.Remove(filepath.Join(c.sockets, socketName))
	}
}
