package ocr

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limits is what every program is started by. Its own limits bind what it starts, too, and the shell is on every system
// where the program prlimit may not be.
const limits = `ulimit -v "$1" && ulimit -t "$2" && ulimit -f "$3" && ulimit -c 0 || exit 125
shift 3
exec nice -n 10 "$@"`

const (
	grace      = 2 * time.Second // for pipes that somebody holds who left the group
	complaints = 4 << 10         // bytes of what a program says of its errors that are kept
	cache      = "131072"        // blocks of 512 bytes: none of them writes files, but for Poppler's cache of fonts
)

// output runs a program and returns what it prints, of which there may be limit bytes.
func (r *Reader) output(ctx context.Context, dir string, limit int64, program string, arguments ...string) ([]byte, error) {
	var printed bytes.Buffer
	err := r.run(ctx, dir, &printed, limit, program, arguments...)
	return printed.Bytes(), err
}

// run lets a program write to out, limit bytes at most, and returns when it is gone with all that it started. A child that
// fails does so because of the document, unless the error is none of this package's.
func (r *Reader) run(ctx context.Context, dir string, out io.Writer, limit int64, program string, arguments ...string) error {
	found, err := exec.LookPath(program)
	if err != nil {
		return fmt.Errorf("%s is %w", program, ErrMissing)
	}
	seconds := int64(r.options.Timeout/time.Second) + 2 // The clock is to end it first, for that is known as what it is.
	arguments = append([]string{
		"-c", limits, "sh", strconv.FormatInt(r.options.Memory>>10, 10), strconv.FormatInt(seconds, 10), cache, found,
	}, arguments...)
	command := exec.CommandContext(ctx, "sh", arguments...)
	command.Dir = dir
	command.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LC_ALL=C.UTF-8", "OMP_THREAD_LIMIT=1",
	}
	if data := os.Getenv("TESSDATA_PREFIX"); data != "" {
		command.Env = append(command.Env, "TESSDATA_PREFIX="+data)
	}
	printed, said := &capped{to: out, left: limit}, &head{}
	command.Stdout, command.Stderr = printed, said
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	command.WaitDelay = grace
	// The kernel kills the child when the thread that started it ends, not when the process does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := command.Start(); err != nil {
		return err
	}
	// When ctx ends the program is killed. Until it is reaped the number of the group is its own: what it has left behind is
	// killed, and nobody else.
	for unix.Waitid(unix.P_PID, command.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		continue
	}
	_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
	err = command.Wait()
	return verdict(ctx, program, err, printed, said.String())
}

// verdict says whose fault it is how a program ended: the document's, by our errors, or the machine's, by another.
func verdict(ctx context.Context, program string, ended error, out *capped, said string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if out.err != nil {
		return out.err
	}
	if ended == nil && (program != "tesseract" || !strings.Contains(said, "Error")) {
		return nil
	}
	line, _, _ := strings.Cut(strings.TrimSpace(said), "\n")
	var exit *exec.ExitError
	if ended != nil && !errors.As(ended, &exit) {
		return fmt.Errorf("%s: %w", program, ended)
	}
	for _, word := range []string{"memory", "alloc"} {
		if strings.Contains(strings.ToLower(said), word) {
			return fmt.Errorf("%w: %s: %s", ErrTooLarge, program, line)
		}
	}
	// The shell's own statuses, and a kill from outside, as of the kernel that runs out of memory.
	if exit != nil && (exit.ExitCode() >= 125 || exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL) {
		return fmt.Errorf("%s: %w: %s", program, ended, line)
	}
	return fmt.Errorf("%w: %s: %s", ErrUnreadable, program, line)
}

// capped passes on what is written until it is too much. Its error ends the program that writes.
type capped struct {
	to   io.Writer
	left int64
	err  error
}

func (c *capped) Write(p []byte) (int, error) {
	if c.left -= int64(len(p)); c.left < 0 {
		c.err = fmt.Errorf("%w: a program gives more than it may", ErrTooLarge)
		return 0, c.err
	}
	n, err := c.to.Write(p)
	c.err = err
	return n, err
}

// head keeps the beginning of what is written.
type head struct{ bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(len(p), complaints-h.Len())])
	return len(p), nil
}
