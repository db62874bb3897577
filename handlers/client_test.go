package handlers

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// TestClient believes X-Forwarded-For for as long as a trusted proxy has written it.
func TestClient(t *testing.T) {
	trusted, err := ParseProxies([]string{"10.0.0.0/8", "127.0.0.1", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{TrustedProxies: trusted}
	for _, c := range []struct{ from, forwarded, want string }{
		{"192.0.2.1:99", "", "192.0.2.1"},
		{"192.0.2.1:99", "198.51.100.7", "192.0.2.1"}, // nobody whom we trust says so
		{"127.0.0.1:99", "198.51.100.7", "198.51.100.7"},
		{"[::ffff:127.0.0.1]:99", "198.51.100.7", "198.51.100.7"},
		{"[2001:db8::1]:99", "2001:0db9::7", "2001:db9::7"},
		{"127.0.0.1:99", "6.6.6.6, 198.51.100.7", "198.51.100.7"}, // what a client claims of itself
		{"127.0.0.1:99", "6.6.6.6, 198.51.100.7, 10.1.2.3", "198.51.100.7"},
		{"127.0.0.1:99", "10.1.2.3,10.1.2.4", "10.1.2.3"},
		{"127.0.0.1:99", "198.51.100.7:4711", "198.51.100.7"},
		{"127.0.0.1:99", "[2001:db9::7]:4711", "2001:db9::7"},
		{"127.0.0.1:99", "198.51.100.7|10.1.2.3", "198.51.100.7"}, // two headers are one list
		{"127.0.0.1:99", "198.51.100.7, unknown", "127.0.0.1"},
		{"127.0.0.1:99", ",", "127.0.0.1"},
		{"@", "198.51.100.7", "@"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.from
		for one := range strings.SplitSeq(c.forwarded, "|") {
			r.Header.Add("X-Forwarded-For", one)
		}
		if got := s.client(r); got != c.want {
			t.Errorf("%s for %q is %s, not %s", c.from, c.forwarded, got, c.want)
		}
	}
	for _, wrong := range []string{"", "proxy", "10.0.0.0/33", "10.0.0"} {
		if _, err := ParseProxies([]string{wrong}); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}

// TestClientInLog names the client of a request that is refused, not the proxy.
func TestClientInLog(t *testing.T) {
	t.Parallel()
	d := openDoor(t, func(d *door) {
		var err error
		if d.server.TrustedProxies, err = ParseProxies([]string{"127.0.0.0/8"}); err != nil {
			t.Fatal(err)
		}
	})
	d.ask("GET", "/nowhere", "", "", "X-Forwarded-For", "198.51.100.7")
	if !strings.Contains(d.log.String(), "client=198.51.100.7") {
		t.Errorf("the log does not name the client: %s", d.log)
	}
}
