package handlers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// sender is a request whose body comes as the test has it.
type sender struct {
	t      testing.TB
	d      *door
	before int64 // bytes that the server had read of other bodies
	body   *io.PipeWriter
	done   chan struct{} // closed with the answer
	got    reply
	err    error
}

// sends begins a request; a length of -1 is told to nobody.
func (d *door) sends(method, path, token string, length int64, headers ...string) *sender {
	d.t.Helper()
	from, to := io.Pipe()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	request, err := http.NewRequestWithContext(ctx, method, d.url+path, from)
	if err != nil {
		d.t.Fatal(err)
	}
	request.ContentLength = length
	request.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	s := &sender{t: d.t, d: d, before: d.came.Load(), body: to, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		var response *http.Response
		if response, s.err = d.client.Do(request); s.err != nil {
			return
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		s.got, s.err = reply{response.StatusCode, response.Header, string(text)}, err
	}()
	d.t.Cleanup(func() { cancel(); to.CloseWithError(context.Canceled); <-s.done })
	return s
}

// send brings a part of the body; it is out when the client has taken it.
func (s *sender) send(text string) {
	s.t.Helper()
	if _, err := s.body.Write([]byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

// reads waits until the server has read so much of the body.
func (s *sender) reads(n int64) {
	s.t.Helper()
	eventually(s.t, patience, "the body is not read", func() bool { return s.d.came.Load() >= s.before+n })
}

func (s *sender) answer() reply {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatal("there is no answer")
	}
	if s.err != nil {
		s.t.Fatal(s.err)
	}
	return s.got
}

// countedBody counts what is read of a body.
type countedBody struct {
	io.ReadCloser
	came *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.came.Add(int64(n))
	return n, err
}

// TestBodyOutlivesRequestTime takes a body that comes for longer than the server gives a request.
func TestBodyOutlivesRequestTime(t *testing.T) {
	everyWay(t, func(t *testing.T, d *door) {
		user, f := mint(t, Claims{}), pdf(4000, 13)
		path := d.create(user, len(f))
		s := d.sends("PUT", path, user, int64(len(f)), "Content-Range", span(0, len(f), len(f)), "Content-Digest", sum(f))
		s.send(f[:2000])
		<-time.After(requestTime + 500*time.Millisecond)
		s.send(f[2000:])
		s.body.Close()
		s.answer().wants(t, "a slow body", 200, "state", "ready")
		d.ask("GET", path, user, "").wants(t, "the next request", 200) // over the same connection
	})
}

// TestBodyTooSlow ends bodies that do not come, or hardly, and keeps what has come.
func TestBodyTooSlow(t *testing.T) {
	everyWay(t, func(t *testing.T, d *door) {
		d.server.readPatience = 300 * time.Millisecond
		user, f := mint(t, Claims{}), pdf(4000, 14)
		path := d.create(user, len(f))
		s := d.sends("PUT", path, user, int64(len(f)), "Content-Range", span(0, len(f), len(f)))
		s.send(f[:2000])
		s.answer().wants(t, "a body that does not come", 408, "Upload-Offset", "2000")
		d.ask("HEAD", path, user, "").wants(t, "then", 204, "Upload-Offset", "2000")
		s = d.sends("PUT", path, user, int64(len(f)-2000), "Content-Range", span(2000, len(f), len(f)))
		trickled := 0
		for ; trickled < 1000; trickled++ {
			if _, err := s.body.Write([]byte(f[2000+trickled : 2001+trickled])); err != nil {
				break // the answer is there
			}
			select {
			case <-s.done:
			case <-time.After(10 * time.Millisecond):
				continue
			}
			break
		}
		s.answer().wants(t, "a body that hardly comes", 408, "Upload-Offset", "*")
		if trickled == 1000 {
			t.Error("all of it was taken")
		}
	})
}

// TestBodyIsTakenOver has a newer request for an upload stop the one that writes: what came without a digest is kept, and what
// came with one is not.
func TestBodyIsTakenOver(t *testing.T) {
	everyWay(t, func(t *testing.T, d *door) {
		user, f := mint(t, Claims{}), pdf(4000, 15)
		for digest, offset := range map[string]int{"": 2000, sum(f): 0} {
			for _, method := range []string{"HEAD", "PUT", "DELETE"} {
				path := d.create(user, len(f))
				headers := []string{"Content-Range", span(0, len(f), len(f))}
				if digest != "" {
					headers = append(headers, "Content-Digest", digest)
				}
				s := d.sends("PUT", path, user, int64(len(f)), headers...)
				s.send(f[:2000])
				s.reads(2000)
				began := time.Now()
				switch got := d.ask(method, path, user, f[offset:], "Upload-Offset", strconv.Itoa(offset)); method {
				case "HEAD":
					got.wants(t, "HEAD meanwhile", 204, "Upload-Offset", strconv.Itoa(offset))
				case "PUT":
					got.wants(t, "PUT meanwhile", 200, "state", "ready")
				case "DELETE":
					got.wants(t, "DELETE meanwhile", 204)
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("%s has waited %s for its turn", method, took)
				}
				s.answer().wants(t, "the older one", 409, "Upload-Offset", strconv.Itoa(offset), "Upload-Complete", "?0")
			}
		}
	})
}

// TestBodyIsCut keeps of a body whose client goes what came without a digest.
func TestBodyIsCut(t *testing.T) {
	everyWay(t, func(t *testing.T, d *door) {
		user, f := mint(t, Claims{}), pdf(4000, 16)
		for digest, offset := range map[string]string{"": "2000", sum(f): "0"} {
			for _, length := range []int64{int64(len(f)), -1} {
				path := d.create(user, len(f))
				headers := []string{"Content-Range", span(0, len(f), len(f))}
				if digest != "" {
					headers = append(headers, "Content-Digest", digest)
				}
				s := d.sends("PUT", path, user, length, headers...)
				s.send(f[:2000])
				s.reads(2000)
				s.body.CloseWithError(context.Canceled)
				<-s.done
				d.ask("HEAD", path, user, "").wants(t, "HEAD then", 204, "Upload-Offset", offset)
				d.ask("PUT", path, user, f, "Content-Range", span(0, len(f), len(f))).wants(t, "all of it then",
					map[string]int{"2000": 409, "0": 200}[offset])
			}
		}
		if text := d.log.String(); strings.Contains(text, "level=ERROR") {
			t.Errorf("a client that leaves is no defect of ours: %s", text)
		}
	})
}

// TestRefusedEarly answers requests that are wrong while their bodies are still on the way.
func TestRefusedEarly(t *testing.T) {
	everyWay(t, func(t *testing.T, d *door) {
		user, other := mint(t, Claims{}), mint(t, Claims{User: "8"})
		path, begun := d.create(user, 50<<20), d.create(user, 50<<20)
		d.ask("PUT", begun, user, "%", "Upload-Offset", "0").wants(t, "the first byte", 204)
		piece := bytes.Repeat([]byte("x"), 64<<10)
		for _, one := range []struct {
			what, method, path, token string
			length                    int64
			headers                   []string
			status                    int
		}{
			{"no token", "PUT", path, "", 50 << 20, nil, 401},
			{"somebody else", "PUT", path, other, 50 << 20, nil, 404},
			{"a gap", "PUT", path, user, 40 << 20, []string{"Upload-Offset", "9"}, 409},
			{"a gap, of a length that nobody knows", "PUT", path, user, -1, []string{"Upload-Offset", "9"}, 409},
			{"a gap, of a body that never comes", "PUT", path, user, 9, []string{"Upload-Offset", "9"}, 409},
			{"a gap, of a body of any length that never comes", "PUT", path, user, -1, []string{"Upload-Offset", "9"}, 409},
			{"too much", "PUT", path, user, 51 << 20, []string{"Upload-Offset", "0"}, 413},
			{"more than a number holds", "PUT", path, user, math.MaxInt64, []string{"Upload-Offset", "0"}, 413},
			{"more than a number holds, further on", "PUT", begun, user, math.MaxInt64, []string{"Upload-Offset", "1"}, 413},
			{"too much at once", "POST", "/v2/uploads", user, 101 << 20, ietf(8, true), 413},
			{"no digest", "PUT", path, user, 50 << 20, []string{"Content-Digest", "sha-256"}, 400},
			{"JSON that is none", "POST", "/v2/uploads", user, 50 << 20, nil, 415},
		} {
			stalls, began := strings.Contains(one.what, "never"), time.Now()
			s := d.sends(one.method, one.path, one.token, one.length, one.headers...)
			sent := int64(0)
			for !stalls && (one.length < 0 || sent+int64(len(piece)) <= one.length) {
				n, err := s.body.Write(piece) // until the client gives up, for it has its answer
				if sent += int64(n); err != nil {
					break
				}
			}
			got := s.answer()
			got.wants(t, one.what, one.status)
			if took := time.Since(began); stalls && took > lingerTime-2*time.Second {
				t.Errorf("%s: the answer has taken %s", one.what, took)
			}
			if sent > 32<<20 {
				t.Errorf("%s: %d bytes were sent before the answer", one.what, sent)
			}
		}
		d.ask("HEAD", path, user, "").wants(t, "the upload", 204, "Upload-Offset", "0")
	})
}

// TestExpectContinue refuses what is wrong before its body is asked for, and asks for that of what is right.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := mint(t, Claims{})
	path := d.create(user, 90)
	for offset, status := range map[int]int{1: 409, 0: 100} {
		got := d.raw(fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\nUpload-Offset: %d\r\n"+
			"Authorization: Bearer %s\r\n\r\n", path, offset, user))
		if got.status != status {
			t.Errorf("at %d: %d %s", offset, got.status, got.body)
		}
	}
}

// TestConnectionSurvivesRefusals keeps a connection whose small body was refused.
func TestConnectionSurvivesRefusals(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := mint(t, Claims{})
	path := d.create(user, 90)
	request := fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nUpload-Offset: 5\r\nAuthorization: Bearer %s\r\n\r\nabcde", path, user)
	last := strings.Replace(request, "Upload-Offset: 5", "Upload-Offset: 0", 1)
	conn := d.connect()
	if _, err := io.WriteString(conn, request+request+last); err != nil {
		t.Fatal(err)
	}
	for i, status := range []int{409, 409, 204} {
		if got := d.answered(conn.from); got.status != status {
			t.Errorf("answer %d is %d: %s", i, got.status, got.body)
		}
	}
}

// TestSlowSession refuses a session whose own body, which nobody looks at, does not come.
func TestSlowSession(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	d.server.bodyTimeout = 50 * time.Millisecond
	d.slowly("POST", sessions+"x", mint(t, Claims{})).wants(t, "a session", 408)
}

// TestCodedTwice refuses a body that says of itself that it is not coded, and then that it is.
func TestCodedTwice(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	user := mint(t, Claims{})
	path := d.create(user, 90)
	d.raw(fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n"+
		"Authorization: Bearer %s\r\n\r\nx", path, user)).wants(t, "coded", 415)
}

// TestAnswersNobodyReads closes connections of clients that ask and ask, and read no answer.
func TestAnswersNobodyReads(t *testing.T) {
	t.Parallel()
	d := openDoor(t, func(d *door) { d.server.WriteTimeout = time.Second })
	user := mint(t, Claims{})
	path := d.create(user, 90)
	d.server.Close() // the routes are served anew, over connections that hold little
	routes, err := d.server.Routes()
	if err != nil {
		t.Fatal(err)
	}
	served := httptest.NewUnstartedServer(routes)
	served.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		_ = conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
		return ctx
	}
	served.Start()
	t.Cleanup(served.Close)
	d.url = served.URL
	for _, one := range []string{"GET " + path, "GET /v2/uploads/x", "HEAD " + path, "GET " + path + "/progress", "GET /healthz/live", "GET /openapi.yaml"} {
		conn := d.connect()
		_ = conn.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		requests := strings.Repeat(fmt.Sprintf("%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", one, user), 10)
		for err = nil; err == nil; {
			_, err = io.WriteString(conn, requests)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection stays open", one)
		}
	}
	if text := d.log.String(); strings.Contains(text, "level=ERROR") {
		t.Errorf("who reads nothing is taken for a defect: %s", text[strings.Index(text, "level=ERROR"):][:200])
	}
}
