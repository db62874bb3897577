package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sluice/cmd/sluice/units"
	"sluice/handlers"
)

// Upload is `sluice bench upload`.
type Upload struct {
	target
	Size     units.Bytes   `default:"100MiB" help:"Of each file."`
	Chunks   []units.Bytes `default:"64KiB,1MiB" help:"Bytes of one request; each is a run of its own."`
	Parallel int           `default:"2" help:"Files at a time."`
	Rounds   int           `default:"5" help:"Times that server, floor and form take turns; the median counts."`
	NoFloor  bool          `name:"no-floor" help:"The server alone."`
}

// Help shows examples.
func (Upload) Help() string {
	return `The floor reads each body, digests chunk and file, and writes: nothing is checked, kept or synced. Beside it the same
files are sent to it as a form, each in one plain POST that is only written. The server verifies every chunk and the file.

Examples:
  sluice bench upload                                    100 MiB files in chunks of 64 KiB and of 1 MiB
  sluice bench upload --size 2GiB --chunks 1MiB --no-floor    memory with a large file; serve --upload-max-size=2GiB`
}

// Run sends files and prints how fast they were taken.
func (c *Upload) Run(ctx context.Context) error {
	to, err := c.aim()
	if err != nil {
		return err
	}
	if c.Size < 1 || c.Parallel < 1 || c.Rounds < 1 {
		return errors.New("--size, --parallel and --rounds must be 1 at least")
	}
	token, err := to.bearer(handlers.Claims{User: "uploader", Role: "ADMIN"})
	if err != nil {
		return err
	}
	fmt.Println(machine(c.Data))
	var floor *uploadFloor
	if !c.NoFloor {
		if floor, err = startUploadFloor(ctx, c.Data); err != nil {
			return err
		}
		defer floor.stop()
	}
	for _, chunk := range c.Chunks {
		if chunk < 1 {
			return errors.New("a chunk has 1 byte at least")
		}
		file := newSentFile(int64(c.Size), int64(chunk))
		server := &sending{address: to.address.String(), host: to.host, token: token, file: file}
		if err := c.measure(ctx, to, server, floor); err != nil {
			return err
		}
	}
	return nil
}

// measure has server, floor and form take turns, and prints the medians.
func (c *Upload) measure(ctx context.Context, to *server, server *sending, floor *uploadFloor) error {
	ways := []struct {
		name  string
		to    *sending
		send  sender
		times []time.Duration
	}{{name: "server", to: server, send: upload}}
	if floor != nil {
		beside := &sending{address: floor.address, host: floor.address, file: server.file}
		ways = append(ways, ways[0], ways[0])
		ways[1].name, ways[1].to, ways[1].send = "floor ", beside, bare
		ways[2].name, ways[2].to, ways[2].send = "form  ", beside, form
	}
	peak := to.peak(ctx)
	for range c.Rounds {
		for i := range ways {
			took, err := ways[i].to.together(c.Parallel, ways[i].send)
			if err == nil {
				err = ways[i].to.remove()
			}
			if err != nil {
				return fmt.Errorf("%s: %w", ways[i].name, err)
			}
			ways[i].times = append(ways[i].times, took)
		}
	}
	resident := peak()
	speed := func(i int) float64 {
		slices.Sort(ways[i].times)
		return mib(int64(c.Parallel)*int64(c.Size)) / ways[i].times[len(ways[i].times)/2].Seconds()
	}
	for i := range ways {
		of := "chunks of " + server.file.chunk.String()
		if i == 2 {
			of = "one multipart POST"
		}
		fmt.Printf("%s  %6.1f MiB/s  %d at a time, %s in %s, %s\n", ways[i].name, speed(i), c.Parallel, c.Size, of,
			ways[i].times[len(ways[i].times)/2].Round(time.Millisecond))
	}
	if floor != nil {
		fmt.Printf("ratio   %.2f of the floor; %.2f of the form's time\n", speed(0)/speed(1), speed(2)/speed(0))
	}
	if resident > 0 {
		fmt.Printf("memory  %.1f MiB at most (bar: 128)\n", mib(resident))
	}
	return nil
}

// sender sends a file, and gives its path, by which it is deleted.
type sender func(e *exchange, n int) (path string, err error)

// together sends n files at once, each over a connection of its own, and says how long that took.
func (s *sending) together(n int, send sender) (took time.Duration, err error) {
	var group sync.WaitGroup
	exchanges, paths, errs := make([]*exchange, n), make([]string, n), make([]error, n)
	for i := range n {
		if exchanges[i], err = s.dial(); err != nil {
			return 0, err
		}
		defer exchanges[i].conn.Close()
	}
	started := time.Now()
	for i := range n {
		group.Go(func() { paths[i], errs[i] = send(exchanges[i], i) })
	}
	group.Wait()
	took = time.Since(started)
	s.sent = paths
	return took, errors.Join(errs...)
}

// remove deletes what was sent: what the kernel has not written yet would be written while others are measured.
func (s *sending) remove() error {
	e, err := s.dial()
	if err != nil {
		return err
	}
	defer e.conn.Close()
	for _, path := range s.sent {
		_, failed := e.ask(s.line("DELETE", path)+"\r\n", nil, http.StatusNoContent)
		err = errors.Join(err, failed)
	}
	return err
}

// peak watches the server's resident memory until it is asked for the most that was seen; 0 without an admin listener.
func (s *server) peak(ctx context.Context) func() int64 {
	ctx, cancel := context.WithCancel(ctx)
	var most atomic.Int64
	var group sync.WaitGroup
	if s.admin != "" {
		group.Go(func() {
			ticker := time.NewTicker(100 * time.Millisecond)
			defer ticker.Stop()
			for {
				if now, err := s.usage(); err == nil {
					most.Store(max(most.Load(), now.resident))
				}
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
			}
		})
	}
	return func() int64 {
		cancel()
		group.Wait()
		return most.Load()
	}
}

// sentFile is what is sent: a part of it again and again, so that a large file needs no memory, and no chunk is like another.
type sentFile struct {
	size    int64
	chunk   units.Bytes
	bytes   []byte
	headers []string // of each chunk: where it is, and its digest
}

const repeatedBytes = 8 << 20

func newSentFile(size, chunk int64) *sentFile {
	f := &sentFile{size: size, chunk: units.Bytes(chunk), bytes: make([]byte, max(repeatedBytes, chunk)+chunk)}
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(f.bytes)
	copy(f.bytes, "%PDF-1.7\n")
	for from := int64(0); from < size; from += chunk {
		body := f.body(from)
		sum := sha256.Sum256(body)
		f.headers = append(f.headers, fmt.Sprintf("Content-Range: bytes %d-%d/%d\r\nContent-Digest: sha-256=:%s:\r\nContent-Length: %d\r\n\r\n",
			from, from+int64(len(body))-1, size, base64.StdEncoding.EncodeToString(sum[:]), len(body)))
	}
	return f
}

// body is the chunk that begins at an offset. The window moves by a prime number of bytes from one round to the next.
func (f *sentFile) body(from int64) []byte {
	length := min(int64(f.chunk), f.size-from)
	at := from
	if from >= repeatedBytes {
		at = (from + from/repeatedBytes*4099) % repeatedBytes
	}
	return f.bytes[at : at+length]
}

// sending sends files by hand, over one connection each: a client that costs as much as the server would be measured
// instead of it.
type sending struct {
	address, host, token string
	file                 *sentFile
	sent                 []string // paths of what is there
}

// exchange is one connection's requests and answers.
type exchange struct {
	*sending
	conn   net.Conn
	reader *bufio.Reader
}

func (s *sending) dial() (*exchange, error) {
	conn, err := net.DialTimeout("tcp", s.address, 10*time.Second)
	if err != nil {
		return nil, explainDial(s.host, err)
	}
	return &exchange{s, conn, bufio.NewReader(conn)}, nil
}

// ask sends one request and reads its answer, whose status has to be one of those wanted.
func (e *exchange) ask(head string, body []byte, want ...int) (*http.Response, error) {
	if err := e.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	parts := net.Buffers{[]byte(head), body}
	if _, err := parts.WriteTo(e.conn); err != nil {
		return nil, err
	}
	return e.answer(want...)
}

func (e *exchange) answer(want ...int) (*http.Response, error) {
	response, err := http.ReadResponse(e.reader, nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && !slices.Contains(want, response.StatusCode) {
		err = fmt.Errorf("%s: %s", response.Status, text)
	}
	return response, err
}

// line begins a request.
func (s *sending) line(method, path string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n", method, path, s.host, s.token)
}

// upload sends a file to the server as a resumable upload.
func upload(e *exchange, n int) (path string, err error) {
	made := fmt.Sprintf(`{"filename":"bench-%d.pdf","size":%d,"mimeType":"application/pdf"}`, n, e.file.size)
	response, err := e.ask(fmt.Sprintf("%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", e.line("POST", "/v2/uploads"), len(made)),
		[]byte(made), http.StatusCreated)
	if err != nil {
		return "", err
	}
	path = response.Header.Get("Location")
	return path, e.chunks(path)
}

// chunks sends all of the file.
func (e *exchange) chunks(path string) error {
	line := e.line("PUT", path)
	for i := range e.file.headers {
		if _, err := e.ask(line+e.file.headers[i], e.file.body(int64(i)*int64(e.file.chunk)), http.StatusNoContent, http.StatusOK); err != nil {
			return err
		}
	}
	return nil
}

// bare sends the same chunks to the floor.
func bare(e *exchange, n int) (path string, err error) {
	path = fmt.Sprintf("/files/%d", n)
	return path, e.chunks(path)
}

// form sends the file to the floor as a browser's form would: in one request.
func form(e *exchange, n int) (path string, err error) {
	const before = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"bench.pdf\"\r\nContent-Type: application/pdf\r\n\r\n"
	const after = "\r\n--b--\r\n"
	path = fmt.Sprintf("/files/%d", n)
	head := fmt.Sprintf("%sContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n%s",
		e.line("POST", path), int64(len(before)+len(after))+e.file.size, before)
	if _, err := io.WriteString(e.conn, head); err != nil {
		return path, err
	}
	for from := int64(0); from < e.file.size; from += int64(e.file.chunk) {
		if _, err := e.conn.Write(e.file.body(from)); err != nil {
			return path, err
		}
	}
	_, err = e.ask(after, nil, http.StatusNoContent)
	return path, err
}

// uploadFloor is the floor's process.
type uploadFloor struct {
	child   *exec.Cmd
	in      io.Closer
	address string
}

func startUploadFloor(ctx context.Context, dir string) (*uploadFloor, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	child := exec.CommandContext(ctx, self, "bench", "upload-floor", "--dir="+dir)
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := child.Start(); err != nil {
		return nil, err
	}
	said, err := bufio.NewReader(out).ReadBytes('\n')
	floor := &uploadFloor{child, in, string(bytes.TrimSpace(said))}
	if err != nil {
		floor.stop()
		return nil, fmt.Errorf("the floor did not start: %w", err)
	}
	return floor, nil
}

// stop has the floor remove its files and end.
func (f *uploadFloor) stop() {
	_ = f.in.Close()
	_ = f.child.Wait()
}
