package bench

import (
	"bufio"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestReadersTell has the readers of each door find what a server leaves out and what it sends twice, alone and within a batch.
func TestReadersTell(t *testing.T) {
	for _, one := range []door{doorSSE, doorNDJSON, doorWebSocket} {
		for name, c := range map[string]struct {
			writes                  [][]byte
			deliveries, lost, twice int64
		}{
			"all":   {[][]byte{one.write(0, 1), one.write(1, 3), one.write(4, 1)}, 5, 0, 0},
			"lost":  {[][]byte{one.write(0, 1), one.write(3, 3), one.write(7, 1)}, 5, 3, 0},
			"twice": {[][]byte{one.write(0, 1), one.write(0, 3), one.write(2, 1)}, 5, 0, 2},
		} {
			rs, err := newReaders()
			if err != nil {
				t.Fatal(err)
			}
			load := &load{readers: 3, rate: 1, door: one}
			from := floorSource{serveBytes(t, one.greeting(), c.writes)}
			if err := rs.open(t.Context(), from, load); err != nil {
				t.Fatal(err)
			}
			want := int64(load.readers)
			err = rs.wait(t.Context(), time.Minute, func() bool { return rs.delivered() == want*c.deliveries }, t.Context().Err)
			o := outcome{Name: "server"}
			o.take(rs)
			if err != nil || o.Deliveries != want*c.deliveries || o.Lost != want*c.lost || o.Repeated != want*c.twice {
				t.Errorf("%s %s: %+v (%v)", one, name, o, err)
			}
			if err := o.verdict(); (err == nil) != (name == "all") {
				t.Errorf("%s %s: the verdict is %v", one, name, err)
			}
		}
	}
}

// serveBytes answers each connection with a greeting and the writes behind it, until the test is over.
func serveBytes(t *testing.T, greeting string, writes [][]byte) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
				t.Error(err)
			}
			for _, bytes := range append([][]byte{[]byte(greeting)}, writes...) {
				if _, err := conn.Write(bytes); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// TestPollAnswers reads an answer cut at every byte, and refuses all but the one event that was published.
func TestPollAnswers(t *testing.T) {
	answer := func(status, body string) string {
		return "HTTP/1.1 " + status + "\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
	}
	const event = `{"id":"a","cursor":"e1-8","data":{}}`
	good := answer("200 OK", `{"events":[`+event+`],"cursor":"e1-8"}`)
	for at := range len(good) {
		if cursor, err := answered([]byte(good[:at]), 8); cursor != "" || err != nil {
			t.Fatalf("after %d of %d bytes: %q (%v)", at, len(good), cursor, err)
		}
	}
	if cursor, err := answered([]byte(good), 8); cursor != "e1-8" || err != nil {
		t.Errorf("%q (%v)", cursor, err)
	}
	for name, text := range map[string]string{
		"the one before":   answer("200 OK", `{"events":[{"id":"a","cursor":"e1-7","data":{}}],"cursor":"e1-7"}`),
		"the one after it": answer("200 OK", `{"events":[{"id":"a","cursor":"e1-9","data":{}}],"cursor":"e1-9"}`),
		"twice":            answer("200 OK", `{"events":[`+event+`,`+event+`],"cursor":"e1-8"}`),
		"nothing":          answer("200 OK", `{"events":[],"cursor":"e1-8"}`),
		"another position": answer("200 OK", `{"events":[`+event+`],"cursor":"e1-9"}`),
		"another event":    answer("200 OK", `{"events":[{"id":"a","cursor":"e1-7","data":{}}],"cursor":"e1-8"}`),
		"another status":   answer("500 Internal Server Error", `{"events":[`+event+`],"cursor":"e1-8"}`),
		"a refusal":        answer("401 Unauthorized", `{"detail":"the token has expired"}`),
		"no length":        "HTTP/1.1 200 OK\r\n\r\n" + `{"events":[` + event + `],"cursor":"e1-8"}`,
	} {
		if cursor, err := answered([]byte(text), 8); err == nil || !strings.Contains(err.Error(), "event 8") {
			t.Errorf("%s: %q (%v)", name, cursor, err)
		}
	}
}
