package handlers

import (
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// uploadsRead holds what reads uploads against the document.
func (c *contract) uploadsRead() {
	c.t.Helper()
	var draining atomic.Bool
	d := openDoor(c.t, func(d *door) { d.server.Draining = draining.Load })
	user, stranger, service := mint(c.t, Claims{}), mint(c.t, Claims{User: "8"}), mint(c.t, Claims{Org: "*"})
	f := pdf(100, 1)
	ready, begun, deleted := d.keep(user, f), d.create(user, 100), d.create(user, 100)
	d.ask("DELETE", deleted, user, "").wants(c.t, "deleting", 204)
	keeps := func(method, path, what, token string, headers ...string) reply {
		c.t.Helper()
		got := d.ask(method, path+what, token, "", headers...)
		c.keeps(method, "/v2/uploads/{id}"+what, got)
		return got
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, path := range []string{ready, begun, deleted} {
			keeps(method, path, "/progress", user)
			keeps(method, path, "/content", user)
		}
		for _, what := range []string{"/progress", "/content"} {
			for _, token := range []string{"", stranger, service} {
				keeps(method, ready, what, token)
			}
		}
		keeps(method, ready, "/progress", user, "Accept", eventStream)
		keeps(method, ready, "/progress", user, "Accept", eventStream, "Last-Event-ID", "ready")
		c.keeps(method, "/v2/uploads/{id}/content", d.ask(method, ready+"/content?expires=1&signature=x", "", ""))
		keeps(method, ready, "/content", user, "If-Match", `"x"`)
	}
	tag := keeps("GET", ready, "/content", user, "Range", "bytes=0-9").header.Get("ETag")
	keeps("GET", ready, "/content", user, "Range", "bytes=100-")
	keeps("GET", ready, "/content", user, "If-None-Match", tag)

	const links = "/v2/uploads/{id}/links"
	kind := []string{"Content-Type", "application/json"}
	for _, one := range []struct {
		path, token, body string
		headers           []string
	}{
		{ready, user, "", nil},
		{ready, user, `{"ttlSeconds":60}`, kind},
		{ready, user, `{"ttlSeconds":0}`, kind},
		{ready, user, `{}`, nil},
		{ready, user, strings.Repeat(" ", bodyLimit+1), kind},
		{ready, "", "", nil},
		{ready, "", "", []string{"Cookie", tokenCookie + "=" + user}},
		{ready, stranger, "", nil},
		{deleted, user, "", nil},
	} {
		c.keeps("POST", links, d.ask("POST", one.path+"/links", one.token, one.body, one.headers...))
	}
	d.server.bodyTimeout = 50 * time.Millisecond
	c.keeps("POST", links, d.slowly("POST", ready+"/links", user, "Content-Type", "application/json"))

	for range watchMost {
		defer d.follow(begun, user).Body.Close()
	}
	keeps("GET", begun, "/progress", user, "Accept", eventStream+", x/y")
	draining.Store(true)
	keeps("GET", begun, "/progress", mint(c.t, Claims{User: "9", Role: "ADMIN"}), "Accept", eventStream+", x/y")
}
