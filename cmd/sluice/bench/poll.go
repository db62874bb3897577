package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sluice/handlers"
)

// Poll is `sluice bench poll`.
type Poll struct {
	target
	Waiters int           `default:"5000" help:"Long-polls that wait."`
	Rounds  int           `default:"3" help:"Times that all of them are answered and ask again, over the same connections."`
	Settle  time.Duration `default:"10s" help:"Wait before memory is read."`
}

// Help shows an example.
func (Poll) Help() string {
	return `Examples, at any server: polls are not held to the limits of streams.
  sluice bench poll                                5,000 polls, three rounds
  sluice bench poll --waiters 10000 --rounds 10    more of them, more often`
}

// pollWait is how long a poll asks to wait: the longest that there is.
const pollWait = time.Minute

// Run parks polls, prints what each costs, and answers all of them with one event, round after round. A thousand come and go
// first: what a server keeps once it has worked at all is not a poll's cost.
func (c *Poll) Run(ctx context.Context) error {
	from, err := c.aim()
	if err != nil {
		return err
	}
	if c.Settle > pollWait/2 {
		return fmt.Errorf("--settle %s: a poll waits for %s at most, so take %s or less", c.Settle, pollWait, pollWait/2)
	}
	if err := raiseDescriptors(c.Waiters); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, machine(c.Data))
	if err := c.park(ctx, from, min(warmUp, c.Waiters), 1, io.Discard); err != nil {
		return err
	}
	time.Sleep(c.Settle)
	return c.park(ctx, from, c.Waiters, c.Rounds, os.Stdout)
}

// park measures one number of waiters.
func (c *Poll) park(ctx context.Context, from *server, waiters, rounds int, to io.Writer) error {
	token, err := from.bearer(handlers.Claims{User: "waiter", Role: "ADMIN", Scope: "publish"})
	if err != nil {
		return err
	}
	cursor, err := from.head(ctx, token)
	if err != nil {
		return err
	}
	before, err := from.usage()
	if err != nil {
		return err
	}
	ps := &polls{server: from, token: token, cursor: cursor}
	defer ps.close()
	if err := ps.dial(ctx, waiters); err != nil {
		return err
	}
	for round := 1; ; round++ {
		if _, err := from.parked(ctx, waiters); err != nil {
			return err
		}
		time.Sleep(c.Settle)
		parked, err := from.parked(ctx, waiters)
		if err != nil {
			return err
		}
		fmt.Fprintf(to, "server  %.1f MiB and %d goroutines; with %d polls that wait %.1f MiB and %d goroutines, %.2f KiB each (bar: 6)\n",
			mib(before.resident), before.routines, waiters, mib(parked.resident), parked.routines,
			float64(parked.resident-before.resident)/1024/float64(waiters))
		times, err := ps.publish(ctx)
		if err != nil {
			return err
		}
		after, err := from.usage()
		if err != nil {
			return err
		}
		fmt.Fprintf(to, "server  one event answers %d polls: the first after %s, p50 %s, p99 %s, the last after %s (bar: 1s); CPU %.1f µs/answer\n",
			times.count, times.quantile(0), times.quantile(.5), times.quantile(.99), times.quantile(1),
			float64((after.cpu-parked.cpu).Microseconds())/float64(waiters))
		if round == rounds {
			return nil
		}
		if err := ps.ask(); err != nil {
			return err
		}
	}
}

// head is the position that a poll without one is told.
func (s *server) head(ctx context.Context, token string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v2/realtime/poll?services=finance", nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", response.Status, text)
	}
	var answer struct {
		Cursor string `json:"cursor"`
	}
	return answer.Cursor, json.Unmarshal(text, &answer)
}

// parked waits until so many polls wait.
func (s *server) parked(ctx context.Context, want int) (usage, error) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		now, err := s.usage()
		if err != nil || now.polls >= want {
			return now, err
		}
		if time.Now().After(deadline) {
			return now, fmt.Errorf("%d of %d polls wait", now.polls, want)
		}
		select {
		case <-ctx.Done():
			return now, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// polls are connections that each ask, wait and are answered.
type polls struct {
	server *server
	token  string
	epoll  int
	conns  []*poll
	cursor string // that all of them ask with; after an answer, the one that it gave
}

// poll is one connection with what has come of its answer.
type poll struct {
	fd   int
	came []byte
}

func (ps *polls) request() []byte {
	return fmt.Appendf(nil, "GET /v2/realtime/poll?services=finance&wait=%.0f&cursor=%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n",
		pollWait.Seconds(), ps.cursor, ps.server.host, ps.token)
}

// dial connects and asks.
func (ps *polls) dial(ctx context.Context, waiters int) error {
	var err error
	if ps.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	request := ps.request()
	for i := range waiters {
		if err := ctx.Err(); err != nil {
			return err
		}
		fd, err := dial(ps.server.address, i, request)
		if err != nil {
			return explainDial(ps.server.url, err)
		}
		ps.conns = append(ps.conns, &poll{fd: fd})
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
		if err := unix.EpollCtl(ps.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			return os.NewSyscallError("epoll_ctl", err)
		}
	}
	return nil
}

// ask sends the next request over every connection.
func (ps *polls) ask() error {
	request := ps.request()
	for _, one := range ps.conns {
		if n, err := unix.Write(one.fd, request); err != nil || n < len(request) {
			return fmt.Errorf("a connection that was answered takes %d bytes of a request: %w", n, err)
		}
	}
	return nil
}

// publish appends one event and gives the times from before that until each poll was answered with it.
func (ps *polls) publish(ctx context.Context) (*histogram, error) {
	publisher := &publisher{server: ps.server, token: ps.token}
	defer publisher.close()
	times, sent := new(histogram), time.Now()
	published := make(chan error, 1)
	go func() { published <- publisher.post(`{"service":"finance","type":"expense_added"}`) }()
	err := ps.answers(ctx, sent, times)
	return times, errors.Join(err, <-published)
}

// answers reads one whole answer from each connection and counts how long after a time it was there.
func (ps *polls) answers(ctx context.Context, since time.Time, times *histogram) error {
	want, cursor := seqOf([]byte(ps.cursor))+1, ""
	events := make([]unix.EpollEvent, 1024)
	buffer := make([]byte, 64<<10)
	for left, idle := len(ps.conns), 0; left > 0; {
		n, err := unix.EpollWait(ps.epoll, events, 100)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("epoll_wait", err)
		}
		if idle++; n > 0 {
			idle = 0
		}
		if ctx.Err() != nil || idle > 100 {
			return errors.Join(ctx.Err(), fmt.Errorf("%d of %d polls are not answered", left, len(ps.conns)))
		}
		for _, event := range events[:n] {
			one := ps.conns[event.Fd]
			n, err := unix.Read(one.fd, buffer)
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return fmt.Errorf("poll %d: %w", event.Fd, closedBy(err))
			}
			one.came = append(one.came, buffer[:n]...)
			given, err := answered(one.came, want)
			if err != nil {
				return fmt.Errorf("poll %d: %w", event.Fd, err)
			}
			if given != "" {
				cursor = given
				times.add(time.Since(since))
				one.came = nil
				left--
			}
		}
	}
	ps.cursor = cursor
	return nil
}

// answered gives the cursor of an answer that is whole: empty as long as it is not. An answer with anything but the one event is a failure.
func answered(answer []byte, want int64) (cursor string, err error) {
	head, body, found := bytes.Cut(answer, blankLine)
	if !found {
		return "", nil
	}
	_, length, _ := strings.Cut(strings.ToLower(string(head)), "content-length: ")
	length, _, _ = strings.Cut(length, "\r\n")
	size, err := strconv.Atoi(length)
	if err == nil && len(body) < size {
		return "", nil
	}
	rest := body
	if event := seqAfter(&rest); err == nil && bytes.HasPrefix(head, statusOK) && event == want {
		_, rest, _ = bytes.Cut(rest, cursorField)
		reached, rest, _ := bytes.Cut(rest, []byte{'"'})
		if seqOf(reached) == want && !bytes.Contains(rest, cursorField) {
			return string(reached), nil
		}
	}
	status, _, _ := bytes.Cut(head, []byte("\r\n"))
	return "", fmt.Errorf("answered %s instead of with event %d alone: %s", status, want, body)
}

func (ps *polls) close() {
	for _, one := range ps.conns {
		_ = unix.Close(one.fd)
	}
	_ = unix.Close(ps.epoll)
}
