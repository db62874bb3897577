package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sluice/handlers"
)

// source is what readers connect to: the server, or the floor beside it.
type source interface {
	name() string
	addr() netip.AddrPort
	request(i int, load *load) ([]byte, error) // of the i-th reader
}

// load is who reads and how much is sent.
type load struct {
	readers  int
	rate     int           // messages a second; 0: as fast as they are taken
	duration time.Duration //
	sharing  int           // readers of one property; 0: everybody reads everything
	door     door          // that they read through
}

// propertyOf is the property of a reader's filter; -1: it has none.
func (l *load) propertyOf(i int) int {
	if l.sharing == 0 {
		return -1
	}
	return i / l.sharing
}

// server is a running Sluice.
type server struct {
	url, host, admin string
	address          netip.AddrPort
	org, token       string
	secret           []byte
	all              string // the token of readers without a filter
}

func (s *server) name() string         { return s.url }
func (s *server) addr() netip.AddrPort { return s.address }

// request asks for a stream. A reader with a filter has two properties: one that a few share, and one of its own, so
// that no two filters are equal.
func (s *server) request(i int, load *load) ([]byte, error) {
	token := s.all
	var err error
	if load.sharing > 0 {
		token, err = s.bearer(handlers.Claims{
			User: "reader", Role: "MANAGER", Properties: []string{strconv.Itoa(load.propertyOf(i)), "own" + strconv.Itoa(i)},
		})
	} else if token == "" {
		token, err = s.bearer(handlers.Claims{User: "reader", Role: "ADMIN"})
		s.all = token
	}
	return fmt.Appendf(nil, "GET /v2/realtime/stream?services=finance HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n%s\r\n",
		s.host, token, load.door.headers()), err
}

// usage is what the server says of itself on its admin listener.
type usage struct {
	cpu      time.Duration
	resident int64 // bytes
	routines int   // goroutines
	polls    int   // that wait
}

func (s *server) usage() (u usage, err error) {
	response, err := http.Get(s.admin + "/metrics")
	if err != nil {
		return u, fmt.Errorf("%w: name the server's --admin-listen with --admin", err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		number, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "process_cpu_seconds_total":
			u.cpu = time.Duration(number * float64(time.Second))
		case "process_resident_memory_bytes":
			u.resident = int64(number)
		case "go_goroutines":
			u.routines = int(number)
		case `sluice_active_streams{transport="poll"}`:
			u.polls = int(number)
		}
	}
	return u, lines.Err()
}

// publishing is what publishers have done.
type publishing struct {
	events int64
	took   time.Duration
	acks   histogram
}

// publish sends requests of batch events each, by the clock or one after another, until the time is over.
func (s *server) publish(ctx context.Context, load *load, publishers, batch int) (p publishing, err error) {
	token, err := s.bearer(handlers.Claims{User: "app", Role: "ADMIN", Scope: "publish"})
	if err != nil {
		return p, err
	}
	var mu sync.Mutex
	var failed error
	var turn, events atomic.Int64
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := time.Now()
	for range publishers {
		group.Go(func() {
			to := &publisher{server: s, token: token}
			defer to.close()
			for ctx.Err() == nil {
				n := turn.Add(1) - 1
				if load.rate > 0 {
					time.Sleep(time.Until(started.Add(time.Duration(n) * time.Second / time.Duration(load.rate))))
				}
				if time.Since(started) >= load.duration {
					return
				}
				sent := time.Now()
				err := to.post(body(load, n, batch))
				mu.Lock()
				p.acks.add(time.Since(sent))
				if err != nil && failed == nil {
					failed = err
					cancel()
				}
				mu.Unlock()
				if err == nil {
					events.Add(int64(batch))
				}
			}
		})
	}
	group.Wait()
	p.events, p.took = events.Load(), time.Since(started)
	return p, failed
}

// body makes a request's events, each with the time of its making.
func body(load *load, n int64, batch int) string {
	property := int64(7)
	if load.sharing > 0 {
		property = n % int64(max(1, load.readers/load.sharing))
	}
	var text strings.Builder
	for i := range batch {
		text.WriteByte("[,"[min(i, 1)])
		fmt.Fprintf(&text, `{"service":"finance","type":"expense_added","propertyId":%d,"data":{"t":%d}}`, property, time.Now().UnixNano())
	}
	text.WriteByte(']')
	return text.String()
}

// publisher is one connection that publishes. It writes and reads HTTP by hand: it shares the machine with the server,
// and a client that costs as much as the server would be measured instead of it.
type publisher struct {
	server *server
	token  string
	conn   net.Conn
	reader *bufio.Reader
}

func (p *publisher) post(body string) error {
	if err := p.request(http.MethodPost, "/v2/events", body, http.StatusCreated); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// request sends a request and reads its answer, whose status is to be this one.
func (p *publisher) request(method, path, body string, want int) error {
	if p.conn == nil {
		conn, err := net.DialTimeout("tcp", p.server.address.String(), 10*time.Second)
		if err != nil {
			return explainDial(p.server.url, err)
		}
		p.conn, p.reader = conn, bufio.NewReader(conn)
	}
	if err := p.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.conn, "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		method, path, p.server.host, p.token, len(body), body)
	if err != nil {
		return err
	}
	response, err := http.ReadResponse(p.reader, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != want {
		err = fmt.Errorf("%s: %s", response.Status, text)
	}
	return err
}

func (p *publisher) close() {
	if p.conn != nil {
		p.conn.Close()
	}
}

// machine says what the figures were taken on.
func machine(dir string) string {
	var kernel unix.Utsname
	_ = unix.Uname(&kernel) // it cannot fail for a place of ours
	return fmt.Sprintf("%d cores, %s %s, %s, one fsync p50 %s", runtime.NumCPU(), unix.ByteSliceToString(kernel.Sysname[:]),
		unix.ByteSliceToString(kernel.Release[:]), runtime.Version(), fsyncTime(dir).Round(time.Microsecond))
}

// fsyncTime is the median time of writing a block and syncing it, which no commit can be faster than; 0 where the
// directory cannot be written.
func fsyncTime(dir string) time.Duration {
	file, err := os.CreateTemp(dir, "fsync")
	if err != nil {
		return 0
	}
	defer os.Remove(file.Name())
	defer file.Close()
	var times histogram
	for range 200 {
		started := time.Now()
		if _, err := file.WriteAt(make([]byte, 8192), 0); err != nil {
			return 0
		}
		if err := file.Sync(); err != nil {
			return 0
		}
		times.add(time.Since(started))
	}
	return times.quantile(.5)
}
