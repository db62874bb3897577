package handlers

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// TestUploadRights asks who may do what with uploads: one of nobody's property, and one of a property.
func TestUploadRights(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	creator := mint(t, Claims{Properties: []string{"1"}})
	tokens := map[string]string{
		"creator": creator, "admin": mint(t, Claims{User: "8", Role: "ADMIN"}), "holder": mint(t, Claims{User: "8", Properties: []string{"0", "1"}}),
		"colleague": mint(t, Claims{User: "8", Properties: []string{"2"}}), "stranger": mint(t, Claims{Org: "2", Role: "ADMIN"}),
		"namesake": mint(t, Claims{Org: "2"}), "service": mint(t, Claims{Org: "*", User: "app", Role: "ADMIN"}), "nobody": "",
	}
	for _, one := range []struct {
		who, query        string
		of                []string // of the upload
		read, send, erase int
	}{
		{"creator", "", nil, 200, 409, 204},
		{"admin", "", nil, 200, 403, 204},
		{"holder", "", nil, 404, 404, 404},
		{"holder", "", []string{`"propertyId":1`}, 200, 403, 403},
		{"colleague", "", []string{`"propertyId":1`}, 404, 404, 404},
		{"stranger", "", []string{`"propertyId":1`}, 404, 404, 404},
		{"namesake", "", nil, 404, 404, 404},
		{"service", "", nil, 400, 400, 400},
		{"service", "?orgId=2", nil, 404, 404, 404},
		{"service", "?orgId=1", nil, 200, 403, 204},
		{"nobody", "", nil, 401, 401, 401},
	} {
		what := one.who + " " + one.query + strings.Join(one.of, "") + " "
		path, token := d.create(creator, 9, one.of...)+one.query, tokens[one.who]
		d.ask("GET", path, token, "").wants(t, what+"reads", one.read)
		d.ask("PUT", path, token, "x", "Upload-Offset", "1").wants(t, what+"sends", one.send)
		d.ask("PATCH", path, token, "x", tusPatch(1)...).wants(t, what+"sends by tus", one.send)
		head := one.read
		if head == 200 {
			head = 204
		}
		d.ask("HEAD", path, token, "").wants(t, what+"asks for the offset", head)
		d.ask("DELETE", path, token, "").wants(t, what+"deletes", one.erase)
	}
	for _, id := range []string{"x", strings.Repeat("a", 26), strings.Repeat("A", 26), "..%2f..", strings.Repeat("a", 4000)} {
		d.ask("GET", "/v2/uploads/"+id, creator, "").wants(t, id, 404)
	}
	got := d.ask("POST", "/v2/uploads?orgId=5", tokens["service"], `{"filename":"a","mimeType":"text/csv"}`, "Content-Type", "application/json")
	got.wants(t, "a service token creates", 201, "Location", "*")
	if at := got.header.Get("Location"); !strings.HasSuffix(at, "?orgId=5") || d.ask("PUT", at, tokens["service"], "a,b\n1,2\n").status != 200 {
		t.Errorf("the upload of a service token is at %s", at)
	}
}

// TestReadersDoNotDisturb has somebody who may read an upload ask where it stands while it is written.
func TestReadersDoNotDisturb(t *testing.T) {
	everyWay(t, func(t *testing.T, d *door) {
		user, f := mint(t, Claims{}), pdf(4000, 18)
		path := d.create(user, len(f))
		s := d.sends("PUT", path, user, int64(len(f)), "Upload-Offset", "0")
		s.send(f[:2000])
		s.reads(2000)
		d.ask("HEAD", path, admin(t, "8"), "").wants(t, "an ADMIN's HEAD", 204, "Upload-Offset", "*")
		d.ask("GET", path, user, "").wants(t, "the creator's GET", 200)
		s.send(f[2000:])
		s.body.Close()
		s.answer().wants(t, "the writer", 200, "state", "ready")
	})
}

// TestUploadByCookie lets pages of this server and of allowed origins write, and no others.
func TestUploadByCookie(t *testing.T) {
	t.Parallel()
	d := openDoor(t, func(d *door) { d.server.AllowedOrigins = []string{"https://app.example"} })
	user := mint(t, Claims{})
	for origin, allowed := range map[string]bool{"": false, "https://evil.example": false, "https://app.example": true, d.url: true} {
		path := d.create(user, 9)
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "GET", "HEAD"} {
			at, headers := path, append(tusPatch(0), "Cookie", tokenCookie+"="+user)
			if method == "POST" {
				at, headers = "/v2/uploads", tus("Upload-Length", "9", "Cookie", tokenCookie+"="+user)
			}
			if origin != "" {
				headers = append(headers, "Origin", origin)
			}
			got := d.ask(method, at, "", "", headers...)
			if refused := got.status == http.StatusForbidden; refused != (!allowed && method != "GET" && method != "HEAD") {
				t.Errorf("%s by cookie from %q: %d %s", method, origin, got.status, got.body)
			}
			if method == "GET" && !allowed {
				over := d.ask("GET", at, "", "", append(headers, "X-HTTP-Method-Override", "DELETE")...)
				over.wants(t, "a DELETE that looks like a GET", http.StatusForbidden)
			}
		}
		headers := []string{"Cookie", tokenCookie + "=" + user}
		if origin != "" {
			headers = append(headers, "Origin", origin)
		}
		for _, at := range []string{sessions + "x", d.create(user, 9) + "/links"} {
			if got := d.ask("POST", at, "", "", headers...); (got.status == http.StatusForbidden) == allowed {
				t.Errorf("POST %s by cookie from %q: %d %s", at, origin, got.status, got.body)
			}
		}
	}
}

// TestPropertyLostMeanwhile refuses the last byte of an upload for a property that is its creator's no more, and keeps it.
func TestPropertyLostMeanwhile(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	having, f := mint(t, Claims{Properties: []string{"7"}}), pdf(40, 19)
	lost := mint(t, Claims{Properties: []string{"8"}})
	d.ask("POST", "/v2/uploads", lost, `{"filename":"a","mimeType":"text/csv","propertyId":"7"}`, "Content-Type", "application/json").
		wants(t, "a foreign property", 403, "field", "propertyId")
	path := d.create(having, 40, `"propertyId":"7"`)
	d.walk(path, lost, []step{
		{"not the last", "PUT", f[:10], []string{"Upload-Offset", "0"}, 204, []string{"Upload-Offset", "10"}},
		{"the last", "PUT", f[10:], []string{"Upload-Offset", "10"}, 403, []string{"field", "propertyId"}},
	})
	d.ask("PUT", path, having, "", "Content-Range", "bytes */40").wants(t, "the last of who has it", 200, "state", "ready")
}

// TestRightsLostOnTheWay refuses an upload whose creator has lost its property, or whose token has ended, while the only request
// for it brought its bytes, and keeps them.
func TestRightsLostOnTheWay(t *testing.T) {
	everyWay(t, func(t *testing.T, d *door) {
		var has atomic.Bool
		d.server.Auth.options.Properties = func(context.Context, string, string) ([]string, error) {
			return map[bool][]string{true: {"7"}}[has.Load()], nil
		}
		user, f := mint(t, Claims{}), pdf(4000, 22)
		of := []string{"Upload-Metadata", "propertyId " + b64("7")}
		for what, headers := range map[string][]string{
			"by tus": tus(append(of, "Upload-Length", "4000", "Content-Type", offsetStream)...), "by the draft": ietf(8, true, of...),
		} {
			has.Store(true)
			d.server.Auth.known.Purge()
			s := d.sends("POST", "/v2/uploads", user, int64(len(f)), headers...)
			s.send(f[:2000])
			s.reads(2000)
			has.Store(false)
			d.server.Auth.known.Purge()
			s.send(f[2000:])
			s.body.Close()
			got := s.answer()
			got.wants(t, what, 403, "field", "propertyId", "Upload-Offset", "4000", "Location", "*")
			path := got.header.Get("Location")
			d.walk(path, user, []step{{what + ", then", "HEAD", "", nil, 403, nil}, {what + ", then", "GET", "", nil, 200, []string{"state", "uploading"}}})
			has.Store(true)
			d.server.Auth.known.Purge()
			d.ask("HEAD", path, user, "").wants(t, what+", of who has it again", 204, "Upload-Complete", "?1")
		}
		expires := time.Now().Add(2 * time.Second)
		path := d.create(user, len(f))
		s := d.sends("PUT", path, mint(t, Claims{Expires: expires.Add(-tokenLeeway)}), int64(len(f)))
		s.send(f[:2000])
		s.reads(2000)
		<-time.After(time.Until(expires) + time.Second) // exp is in whole seconds
		s.send(f[2000:])
		s.body.Close()
		s.answer().wants(t, "with a token that has ended", 401, "Upload-Offset", "4000", "Upload-Complete", "?0")
		d.ask("GET", path, user, "").wants(t, "then", 200, "state", "uploading")
		d.ask("HEAD", path, user, "").wants(t, "with another token", 204, "Upload-Complete", "?1")
	})
}

// TestUploadExpires deletes what nobody goes on with, and says so.
func TestUploadExpires(t *testing.T) {
	t.Parallel()
	d := openDoor(t, withUploads(func(o *streams.UploadOptions) { o.Expiry = time.Millisecond }))
	user := mint(t, Claims{})
	path := d.create(user, 40)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { d.uploads.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	eventually(t, patience, "it does not expire", func() bool { return d.ask("GET", path, user, "").resource(t).State == "expired" })
	d.walk(path, user, []step{
		{"HEAD", "HEAD", "", nil, 410, []string{"Upload-Offset", "-"}},
		{"PUT", "PUT", "x", nil, 410, []string{"Upload-Offset", "-"}},
		{"PATCH", "PATCH", "x", tusPatch(0), 410, []string{"Upload-Offset", "-"}},
		{"DELETE", "DELETE", "", nil, 410, nil},
		{"GET", "GET", "", nil, 200, []string{"state", "expired", "Upload-Offset", "-"}},
	})
}

// TestUploadLimits bounds what a user has under way, and holds.
func TestUploadLimits(t *testing.T) {
	t.Parallel()
	d := openDoor(t, withUploads(func(o *streams.UploadOptions) { o.Open, o.Quota = 2, 100 }))
	user := mint(t, Claims{})
	body := `{"filename":"a","mimeType":"text/csv","size":`
	json := []string{"Content-Type", "application/json"}
	first := d.create(user, 60)
	d.ask("POST", "/v2/uploads", user, body+"41}", json...).wants(t, "past the quota", 413)
	d.create(user, 40)
	d.ask("POST", "/v2/uploads", user, body+"0}", json...).wants(t, "past the number", 429, "Retry-After", "*")
	d.create(mint(t, Claims{User: "8"}), 40)
	d.ask("DELETE", first, user, "").wants(t, "one less", 204)
	d.create(user, 60)
}

// TestUploadAcrossInstances sends each chunk to another instance, and has one take over from the other.
func TestUploadAcrossInstances(t *testing.T) {
	t.Parallel()
	database, directory := pgtest.Database(t), t.TempDir()
	doors := []*door{openDoorOn(t, database, directory), openDoorOn(t, database, directory)}
	following(doors[0])
	following(doors[1])
	user, f := mint(t, Claims{}), pdf(80, 20)
	path := doors[0].create(user, 80)
	for i := range 8 {
		from, to := i*10, i*10+10
		headers := [][]string{
			{"Content-Range", span(from, to, 80), "Content-Digest", sum(f[from:to])}, tusPatch(from), ietfPatch(8, from, false), {"Upload-Offset", strconv.Itoa(from)},
		}[i%4]
		method := []string{"PUT", "PATCH", "PATCH", "PUT"}[i%4]
		here, there := doors[i%2], doors[1-i%2]
		got := here.ask(method, path, user, f[from:to], headers...)
		if want := map[bool]int{true: 204, false: 200}[to < 80]; got.status != want {
			t.Fatalf("the bytes from %d on are answered with %d: %s", from, got.status, got.body)
		}
		if i%4 == 0 {
			there.ask(method, path, user, f[from:to], headers...).wants(t, "the same there", 204, "Upload-Offset", strconv.Itoa(to))
		}
		there.ask("HEAD", path, user, "").wants(t, "HEAD there", 204, "Upload-Offset", strconv.Itoa(to))
	}
	if u := doors[0].ask("GET", path, user, "").resource(t); u.SHA256 != sumHex(f) || u.State != "ready" {
		t.Errorf("the upload is %+v", u)
	}
	path = doors[0].create(user, 80)
	s := doors[0].sends("PUT", path, user, 80, "Content-Range", span(0, 80, 80), "Content-Digest", sum(f))
	s.send(f[:40])
	eventually(t, patience, "nobody writes", func() bool {
		u, err := doors[0].uploads.Find(context.Background(), strings.TrimPrefix(path, "/v2/uploads/"))
		return err == nil && u.Owner != ""
	})
	began := time.Now()
	doors[1].ask("PUT", path, user, f, "Content-Range", span(0, 80, 80)).wants(t, "PUT there meanwhile", 200, "state", "ready")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("taking over has taken %s", took)
	}
	s.answer().wants(t, "the one that was taken over from", 409, "Upload-Offset", "*")
}

// TestBusyElsewhere asks for an upload that another instance is verifying.
func TestBusyElsewhere(t *testing.T) {
	t.Parallel()
	database, directory, h := pgtest.Database(t), t.TempDir(), new(held)
	here, there := openDoorOn(t, database, directory, holding(h)), openDoorOn(t, database, directory)
	defer h.letThrough()
	user, f := mint(t, Claims{}), pdf(80, 21)
	path := here.create(user, 80)
	last := here.sends("PUT", path, user, 80, "Upload-Offset", "0")
	last.send(f)
	last.body.Close()
	<-h.reached
	for method, headers := range map[string][]string{"HEAD": nil, "PUT": {"Upload-Offset", "80"}, "PATCH": tusPatch(80), "DELETE": nil} {
		there.ask(method, path, user, "", headers...).wants(t, method+" while it is verified", 423, "Retry-After", "*")
	}
	there.ask("GET", path, user, "").wants(t, "GET while it is verified", 200, "state", "verifying")
	h.letThrough()
	last.answer().wants(t, "the last chunk", 200, "state", "ready")
	there.ask("HEAD", path, user, "").wants(t, "HEAD then", 204, "Upload-Offset", "80", "Upload-Complete", "?1")
}
