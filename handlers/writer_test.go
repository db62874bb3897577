package handlers

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/streams"
)

// over lists the ways on which a connection is not the sink's own.
var over = map[string]func(*httptest.Server){
	"h2c": func(server *httptest.Server) {
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
	},
	"h2 over TLS": func(server *httptest.Server) {
		server.EnableHTTP2 = true
		server.StartTLS()
	},
	"HTTP/1.1 over TLS": func(server *httptest.Server) { server.StartTLS() },
}

// requestTime is what these servers give a request.
const requestTime = 3 * time.Second

// clientOf makes a client that buffers little for a reader that takes nothing.
func clientOf(server *httptest.Server, way string) *http.Client {
	transport := server.Client().Transport.(*http.Transport).Clone()
	if transport.Protocols = new(http.Protocols); way == "h2c" {
		transport.Protocols.SetUnencryptedHTTP2(true)
	} else {
		transport.Protocols.SetHTTP1(strings.HasPrefix(way, "HTTP/1.1"))
		transport.Protocols.SetHTTP2(way == "h2 over TLS")
	}
	transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
	dialer := net.Dialer{Control: receiveBuffer(4 << 10)}
	transport.DialContext = dialer.DialContext
	return &http.Client{Transport: transport}
}

// eachWay runs a test over each of them, and checks that its streams were served there.
func eachWay(t *testing.T, test func(t *testing.T, d *door), changes ...func(*door)) {
	t.Parallel()
	theseWays(t, over, test, changes...)
}

// everyWay runs a test over each of them and in clear text.
func everyWay(t *testing.T, test func(t *testing.T, d *door), changes ...func(*door)) {
	t.Parallel()
	theseWays(t, over, test, changes...)
	theseWays(t, map[string]func(*httptest.Server){"HTTP/1.1": (*httptest.Server).Start}, test, changes...)
}

func theseWays(t *testing.T, ways map[string]func(*httptest.Server), test func(t *testing.T, d *door), changes ...func(*door)) {
	for name, start := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDoor(t, changes...)
			following(d)
			d.server.Close() // the routes are served anew, and what the first ones have started ends
			routes, err := d.server.Routes()
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if secure, two := strings.Contains(name, "TLS"), strings.Contains(name, "h2"); two != (r.ProtoMajor == 2) || secure != (r.TLS != nil) {
					t.Errorf("%s is served as %s", name, r.Proto)
				}
				counted := *r
				counted.Body = &countedBody{r.Body, &d.came}
				routes.ServeHTTP(w, &counted)
			}))
			server.Config.ReadTimeout = requestTime
			server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
				d.accepted.Store(&conn)
				return KeepConn(ctx, conn)
			}
			start(server)
			d.client, d.url = clientOf(server, name), server.URL
			t.Cleanup(func() {
				d.server.Hub.Close() // ends the streams that are left, for which Close would wait
				d.client.CloseIdleConnections()
				server.Close()
			})
			test(t, d)
		})
	}
}

// begin opens a stream and waits for its ack.
func (d *door) begin(user string) *reading {
	d.t.Helper()
	r := read(d.stream(d.client, admin(d.t, user)).Body)
	eventually(d.t, patience, "no ack", func() bool { return len(r.kinds()) > 0 })
	if kinds := r.kinds(); kinds[0] != "ack" {
		d.t.Fatalf("the first frame is %q", kinds[0])
	}
	return r
}

// ends waits for the end of a stream, which must be a good one.
func (r *reading) ends(t testing.TB, last string) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		t.Fatal("a stream does not end")
	}
	if kinds := r.kinds(); r.err != nil || kinds[len(kinds)-1] != last {
		t.Fatalf("a stream has ended after %q: %v", kinds[max(0, len(kinds)-3):], r.err)
	}
}

// TestStreamOutlivesItsRequest keeps a stream beyond the time that the server gives a request.
func TestStreamOutlivesItsRequest(t *testing.T) {
	eachWay(t, func(t *testing.T, d *door) {
		r := d.begin("a")
		<-time.After(requestTime + 500*time.Millisecond)
		r.reach(t, d.append("1", 1, 100))
	})
}

// TestConnIsBounded looks at the connection of a stream: how much the kernel keeps for a reader that takes nothing, and
// for how long it tries to reach one that is gone.
func TestConnIsBounded(t *testing.T) {
	eachWay(t, func(t *testing.T, d *door) {
		d.begin("a")
		conn := *d.accepted.Load()
		if secure, ok := conn.(*tls.Conn); ok {
			conn = secure.NetConn()
		}
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var size, after int
		err = raw.Control(func(fd uintptr) {
			size, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
			after, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		})
		if most := 2 * 4 * sendBuffer; err != nil || size > most || after != int(deadPeer.Milliseconds()) {
			t.Errorf("the kernel keeps up to %d bytes, of %d, and tries for %d ms (%v)", size, most, after, err)
		}
	})
}

// TestWriter publishes as fast as it can, so that much is offered while a write is under way: every event comes once, in
// order, and the drain ends the stream in good order.
func TestWriter(t *testing.T) {
	eachWay(t, func(t *testing.T, d *door) {
		readers := []*reading{d.begin("a"), d.begin("b")}
		var want []string
		for range 50 {
			want = append(want, d.append("1", 4, 20<<10)...)
		}
		for _, r := range readers {
			r.reach(t, want)
		}
		d.await("1", 2, 0)
		d.server.Hub.Drain(context.Background())
		for _, r := range readers {
			r.ends(t, "drain")
		}
		d.await("1", 0, 0)
	})
}

// TestWriterSlowReader has a reader take nothing until its sink is blocked, and go on then. Others are served meanwhile.
func TestWriterSlowReader(t *testing.T) {
	eachWay(t, func(t *testing.T, d *door) {
		slow, quick := d.stopped("slow"), d.begin("quick")
		want := d.append("1", 150, 60<<10) // ~4.5 MiB, of which a reader that takes nothing has room for little
		quick.reach(t, want)
		d.await("1", 2, 1)
		if all := d.server.Hub.Stats("1").Delivered; all >= int64(2*len(want)) {
			t.Fatalf("nobody was slow: %d events are delivered", all)
		}
		want = append(want, d.append("1", 10, 1000)...)
		quick.reach(t, want)
		read(slow).reach(t, want)
		d.await("1", 2, 0)
	})
}

// TestWriterEndOfBlocked ends a stream while a write is under way: what was offered comes, then the reason, then a good end.
func TestWriterEndOfBlocked(t *testing.T) {
	eachWay(t, func(t *testing.T, d *door) {
		slow := d.stopped("7")
		want := d.append("1", 150, 60<<10)
		eventually(t, patience, "nothing is delivered", func() bool { return d.server.Hub.Stats("1").Delivered > 0 })
		d.await("1", 1, 1)
		d.begin("7")
		d.await("1", 1, 0)
		r := read(slow)
		r.ends(t, "problem")
		if len(r.ids) == 0 || len(r.ids) == len(want) || !slices.Equal(r.ids, want[:len(r.ids)]) {
			t.Errorf("it has %d events which are not the first of %d", len(r.ids), len(want))
		}
	}, withHub(streams.Options{MaxStreamsPerUser: 1}))
}

// TestWriterLeaves closes streams from the other side, an idle one and a blocked one: both are noticed at once.
func TestWriterLeaves(t *testing.T) {
	eachWay(t, func(t *testing.T, d *door) {
		idle := d.stopped("idle")
		idle.Close()
		d.await("1", 0, 0)
		blocked := d.stopped("blocked")
		d.append("1", 100, 60<<10)
		d.await("1", 1, 1)
		blocked.Close()
		d.await("1", 0, 0)
	}, withHub(streams.Options{}), withWriteTimeout(time.Hour))
}

// TestWriterTimeout gives a reader up that takes nothing. One that was silent for much longer than that, since there was
// nothing to write, still gets what comes.
func TestWriterTimeout(t *testing.T) {
	const timeout = time.Second
	eachWay(t, func(t *testing.T, d *door) {
		silent := d.begin("silent")
		quiet := time.Now()
		slow := d.stopped("slow")
		want := d.append("1", 100, 60<<10)
		silent.reach(t, want)
		eventually(t, patience, "a reader that takes nothing is not closed", func() bool { return d.server.Hub.Stats("1").Streams == 1 })
		r := read(slow)
		select {
		case <-r.done:
		case <-time.After(patience):
			t.Fatal("a stream that was given up has no end")
		}
		if len(r.ids) >= len(want) || !slices.Equal(r.ids, want[:len(r.ids)]) {
			t.Errorf("it has %d events which are not the first of %d", len(r.ids), len(want))
		}
		quiet = quiet.Add(3 * timeout) // from the last event on, more than the timeout is over
		eventually(t, patience, "time stands still", func() bool { return time.Now().After(quiet) })
		silent.reach(t, append(want, d.append("1", 1, 0)...))
	}, withHub(streams.Options{}), withWriteTimeout(timeout))
}

// stopped opens a stream, reads up to the end of its ack, and no further.
func (d *door) stopped(user string) io.ReadCloser {
	d.t.Helper()
	body := d.stream(d.client, admin(d.t, user)).Body
	var text []byte
	for one := make([]byte, 1); !bytes.Contains(text, []byte("event: ack\n")) || !bytes.HasSuffix(text, []byte("}\n\n")); {
		n, err := body.Read(one)
		if text = append(text, one[:n]...); err != nil {
			d.t.Fatalf("after %q: %v", text, err)
		}
	}
	if !bytes.HasPrefix(text, []byte("retry: ")) {
		d.t.Errorf("the stream begins with %q", text)
	}
	return body
}

// told is an owner that only counts what it is told.
type told struct{ ready, gone atomic.Int32 }

func (o *told) Ready()     { o.ready.Add(1) }
func (o *told) Gone(error) { o.gone.Add(1) }

// TestWriterFirstBytes offers before anything is written: it follows the first bytes, and the end follows both.
func TestWriterFirstBytes(t *testing.T) {
	t.Parallel()
	owner := new(told)
	payload := func(text string) streams.Payload {
		return streams.NewPayload(0, func(dst []byte) []byte { return append(dst, text...) })
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sink := newWriterSink(w, http.NewResponseController(w), "sse", patience, []byte("first "))
		sink.Start(owner)
		shared := payload("second ")
		if sink.Offer(shared) || sink.Offer(payload("third")) {
			t.Error("a sink that has not written yet is not blocked")
		}
		if string(shared.Chunk()) != string(payload("second ").Chunk()) {
			t.Error("what is shared was written to")
		}
		sink.End(nil, streams.EndDrained)
		sink.serve(r.Context())
		if sink.Offer(payload("late")) {
			t.Error("a sink that has ended takes more")
		}
	}))
	defer server.Close()
	response, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || string(text) != "first second third" {
		t.Errorf("%q, %v", text, err)
	}
	if owner.ready.Load() != 0 || owner.gone.Load() != 1 {
		t.Errorf("it was told %d times to go on, and %d times that it is over", owner.ready.Load(), owner.gone.Load())
	}
}

// TestWriterEndsWithoutAWord ends idle streams that are told nothing more, as the end of a token does.
func TestWriterEndsWithoutAWord(t *testing.T) {
	eachWay(t, func(t *testing.T, d *door) {
		r := d.begin("7")
		d.await("1", 1, 0)
		d.server.Hub.Close()
		r.ends(t, "ack")
	})
}
