package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/handlers"
)

const (
	mib       = 1 << 20
	fileBytes = 8*mib + 12_345
)

// options are those of a program that uploads, as it has them.
type options map[string]any

// progressLine is one line of a program that uploads.
type progressLine struct {
	Method                 string // of a request that was answered
	Status                 int
	Offset                 int64
	From                   int64 // where gcs-resumable-upload begins
	Paused, Left, Previous bool
	Done, Aborted          string // the upload
}

// uploadCase is what happens to a client while it uploads.
type uploadCase struct {
	name    string
	options options
	file    string // of uploadFiles; "": document
	cuts    int    // of the network
	kills   bool   // an instance is killed
	alone   bool   // there is no other one, so that it is started again
	again   bool   // another process goes on where the client ends early
	made    int    // uploads that it makes; 0: one
}

// uploadPlace is what all cases of a test share.
type uploadPlace struct {
	flags     []string // of instances
	instances []string // that nobody kills
	files     map[string][]byte
	dir       string // of the files
}

func newUploadPlace(t *testing.T) *uploadPlace {
	t.Helper()
	random := make([]byte, fileBytes)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	copy(random, "%PDF-1.7\n")
	place := &uploadPlace{
		flags: append(shared(t), "--blobs=file://"+t.TempDir(), "--ocr-workers=0"),
		files: map[string][]byte{"document": random, "empty": {}, "table": bytes.Repeat([]byte("room,guest\n"), 50_000)},
		dir:   t.TempDir(),
	}
	for name, content := range place.files {
		if err := os.WriteFile(filepath.Join(place.dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		place.instances = append(place.instances, strings.TrimPrefix(serve(t, place.flags...).url, "http://"))
	}
	return place
}

// road is the way of one client to its instances.
type road struct {
	*balancer
	revive chan []string // the flags of an instance that was killed and has to be there again
}

// road builds the way for a case.
func (p *uploadPlace) road(t *testing.T, c *uploadCase) *road {
	t.Helper()
	r := &road{revive: make(chan []string, 1)}
	to := p.instances
	cuts := make([]cut, c.cuts)
	for i := range cuts {
		cuts[i].after = 2 * mib
	}
	if c.kills {
		flags := append(p.flags[:len(p.flags):len(p.flags)], "--listen="+freePort(t))
		victim := serve(t, flags...)
		cuts = append(cuts, cut{after: 5*mib + 100_000, first: func() {
			victim.kill()
			r.revive <- flags
		}})
		if to = []string{strings.TrimPrefix(victim.url, "http://")}; !c.alone {
			// It is the first to be asked, and with every second connection it is gone.
			to = append(to, p.instances[0])
		}
	}
	r.balancer = newBalancer(t, cuts, to...)
	return r
}

// run has a program do its work, and brings back an instance that is killed meanwhile and that it cannot do without.
func (r *road) run(t *testing.T, alone bool, name string, args ...string) (out, notes string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	ended := make(chan error, 1)
	go func() { ended <- command.Run() }()
	for {
		select {
		case flags := <-r.revive:
			if alone {
				serve(t, flags...)
			}
		case err := <-ended:
			return stdout.String(), stderr.String(), err
		}
	}
}

// upload has a program upload, as often as it takes, and returns what it said.
func (p *uploadPlace) upload(t *testing.T, r *road, program string, c *uploadCase, token string) []progressLine {
	t.Helper()
	// What a client remembers is its own case's; gcs-resumable-upload would keep it at home, for all of them.
	remembered := filepath.Join(t.TempDir(), "remembered.json")
	given := options{"urls": remembered, "configPath": remembered}
	maps.Copy(given, c.options)
	text, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	node, all := installed(t, "node"), []progressLine(nil)
	for range 5 {
		out, notes, err := r.run(t, c.alone, node, filepath.Join(folder, program+".js"), r.url, token, filepath.Join(p.dir, c.file), string(text))
		for line := range strings.Lines(out) {
			var one progressLine
			if err := json.Unmarshal([]byte(line), &one); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			all = append(all, one)
		}
		if n := len(all); n > 0 && (all[n-1].Done != "" || all[n-1].Aborted != "") {
			return all
		}
		if !c.again {
			t.Fatalf("%v: %.3000s\n%s", err, notes, out)
		}
	}
	t.Fatalf("it never succeeds: %+v", all)
	return nil
}

// getUpload asks for an upload's resource, or for what belongs to it.
func getUpload(t *testing.T, to, token string) (status int, text []byte) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err = io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, text
}

// intact holds what was stored against the file.
func intact(t *testing.T, instance, token, id string, content []byte) {
	t.Helper()
	at := "http://" + instance + "/v2/uploads/" + path.Base(id)
	status, text := getUpload(t, at, token)
	var resource struct {
		State, SHA256 string
		Size, Offset  int64
	}
	if err := json.Unmarshal(text, &resource); err != nil || status != http.StatusOK {
		t.Fatalf("status %d, %v: %s", status, err, text)
	}
	sum, size := sha256.Sum256(content), int64(len(content))
	if resource.State != "ready" || resource.SHA256 != hex.EncodeToString(sum[:]) || resource.Size != size || resource.Offset != size {
		t.Errorf("%d bytes of the digest %x are now %s", size, sum, text)
	}
	if status, stored := getUpload(t, at+"/content", token); status != http.StatusOK || !bytes.Equal(stored, content) {
		t.Errorf("status %d: %d of %d bytes, or others", status, len(stored), size)
	}
}

// uploadCases gives the cases of a program.
func uploadCases() map[string][]uploadCase {
	cases := map[string][]uploadCase{
		"upload-uppy": {
			{name: "plain"},
			{name: "paused and cut", options: options{"chunkSize": 3 * mib, "pauseAt": 4 * mib}, cuts: 3},
			{name: "killed", options: options{"chunkSize": mib}, kills: true},
		},
		"upload-gcs": {
			{name: "whole"},
			{name: "whole, cut, another process goes on", cuts: 2, again: true},
			{name: "whole, killed, another process goes on", kills: true, again: true},
			{name: "in chunks", options: options{"chunkSize": mib}},
			{name: "in chunks, cut, another process goes on", options: options{"chunkSize": mib}, cuts: 2, again: true},
			{name: "in chunks, killed and back, another process goes on", options: options{"chunkSize": mib}, kills: true, alone: true, again: true},
		},
	}
	for _, protocol := range []string{"tus-v1", "ietf-draft-03", "ietf-draft-05"} {
		add := func(c uploadCase, given options) {
			c.name, c.options = protocol+" "+c.name, options{"protocol": protocol}
			maps.Copy(c.options, given)
			cases["upload-tus"] = append(cases["upload-tus"], c)
		}
		add(uploadCase{name: "plain"}, nil)
		add(uploadCase{name: "paused"}, options{"chunkSize": mib, "pauseAt": 3*mib + mib/2})
		add(uploadCase{name: "cut", cuts: 3}, nil)
		add(uploadCase{name: "in chunks, cut", cuts: 3}, options{"chunkSize": 3 * mib})
		add(uploadCase{name: "another process goes on", again: true}, options{"chunkSize": 2 * mib, "leaveAt": 5 * mib})
		add(uploadCase{name: "with the first bytes at its creation"}, options{"chunkSize": 3 * mib, "uploadDataDuringCreation": true})
		add(uploadCase{name: "aborted"}, options{"chunkSize": mib, "abortAt": 2*mib + mib/2})
		add(uploadCase{name: "empty", file: "empty"}, options{"type": "text/csv"})
		add(uploadCase{name: "of a length told at the end"}, options{"chunkSize": mib, "piped": true, "uploadLengthDeferred": true})
		if protocol != "ietf-draft-03" { // which differs from the next in two headers
			add(uploadCase{name: "killed", kills: true}, options{"chunkSize": 2 * mib})
			add(uploadCase{name: "killed and back", kills: true, alone: true}, nil)
		}
		if protocol == "tus-v1" {
			add(uploadCase{name: "of another type", file: "table"}, options{"type": "text/csv", "chunkSize": 64 << 10})
			add(uploadCase{name: "of a length told at the end, cut", cuts: 3}, options{"chunkSize": mib, "piped": true, "uploadLengthDeferred": true})
			add(uploadCase{name: "in parts", made: 4}, options{"parallelUploads": 3})
			add(uploadCase{name: "in parts, cut", made: 4, cuts: 3}, options{"parallelUploads": 3, "chunkSize": mib})
			add(uploadCase{name: "with checksums"}, options{"chunkSize": mib, "checksum": true})
			add(uploadCase{name: "with checksums, cut", cuts: 3}, options{"chunkSize": mib, "checksum": true})
			add(uploadCase{name: "by POST alone"}, options{"chunkSize": 3 * mib, "overridePatchMethod": true})
		}
	}
	return cases
}

// judge says what a client did not have to do, or had to.
func (c *uploadCase) judge(t *testing.T, r *road, said []progressLine) {
	t.Helper()
	made, resumed, refused, hints := 0, false, 0, map[string]bool{}
	for _, one := range said {
		switch {
		case one.Method == http.MethodPost && one.Status == http.StatusCreated:
			made++
		case one.Method == http.MethodHead:
			resumed = resumed || one.Offset > 0
		case one.Status == 460:
			refused++
		}
		resumed = resumed || one.From > 0
		hints["pauseAt"] = hints["pauseAt"] || one.Paused
		hints["leaveAt"] = hints["leaveAt"] || one.Left
		hints["previous"] = hints["previous"] || one.Previous
		hints["abortAt"] = hints["abortAt"] || one.Aborted != ""
	}
	for _, hint := range []string{"pauseAt", "leaveAt", "abortAt"} {
		if c.options[hint] != nil && !hints[hint] {
			t.Errorf("no %s: %+v", hint, said)
		}
	}
	if c.options["leaveAt"] != nil && !hints["previous"] {
		t.Errorf("nothing was remembered: %+v", said)
	}
	if c.options["protocol"] != nil && made != max(c.made, 1) {
		t.Errorf("%d uploads were made: %+v", made, said)
	}
	if interrupted := c.cuts > 0 || c.kills || c.again || c.options["pauseAt"] != nil; interrupted && !resumed {
		t.Errorf("it was not resumed: %+v", said)
	}
	if wrong := c.options["checksum"] != nil; wrong != (refused == 1) {
		t.Errorf("%d checksums were refused: %+v", refused, said)
	}
	if r.left() > 0 {
		t.Errorf("%d cuts did not come", r.left())
	}
	if c.file != "empty" && len(r.to) != r.users() {
		t.Errorf("%d of %d instances were asked", r.users(), len(r.to))
	}
}

// TestUploadClients has clients that nobody here wrote upload through a balancer which sends each request to another
// instance, while they are paused, cut off, or replaced by another process, and while an instance is killed.
func TestUploadClients(t *testing.T) {
	place := newUploadPlace(t)
	for program, cases := range uploadCases() {
		for _, c := range cases {
			t.Run(strings.TrimPrefix(program, "upload-")+" "+c.name, func(t *testing.T) {
				t.Parallel()
				if c.file == "" {
					c.file = "document"
				}
				road := place.road(t, &c)
				bearer := token(t, handlers.Claims{Org: "1", User: t.Name(), Role: "MANAGER"})
				said := place.upload(t, road, program, &c, bearer)
				c.judge(t, road, said)
				last := said[len(said)-1]
				if last.Aborted == "" {
					intact(t, place.instances[0], bearer, last.Done, place.files[c.file])
				} else if status, text := getUpload(t, last.Aborted, bearer); status != http.StatusGone {
					t.Errorf("status %d: %s", status, text)
				}
			})
		}
	}
}

// TestUploadCurl uploads as one does by hand: what HEAD says goes to curl -C, as often as it takes.
func TestUploadCurl(t *testing.T) {
	place := newUploadPlace(t)
	for _, c := range []uploadCase{
		{name: "plain"}, {name: "cut", cuts: 3}, {name: "killed", kills: true}, {name: "killed and back", kills: true, alone: true, cuts: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			road := place.road(t, &c)
			bearer := token(t, handlers.Claims{Org: "1", User: t.Name(), Role: "MANAGER"})
			curl := func(args ...string) (status, notes string) {
				args = append([]string{"-q", "--noproxy", "*", "-sSv", "-o", os.DevNull, "-w", "%{http_code}", "-H", "Authorization: Bearer " + bearer}, args...)
				status, notes, _ = road.run(t, c.alone, "curl", args...)
				return status, notes
			}
			status, notes := curl("-H", "Content-Type: application/json", "-d", `{"filename":"a file","mimeType":"application/pdf"}`, road.url+"/v2/uploads")
			at := header(notes, "Location")
			if status != "201" || at == "" {
				t.Fatalf("status %s: %s", status, notes)
			}
			resumed := 0
			for deadline := time.Now().Add(2 * patience); ; {
				if time.Now().After(deadline) {
					t.Fatal("it never succeeds")
				}
				if status, notes = curl("-I", road.url+at); status == "000" {
					continue // the instance is not back yet
				}
				offset, err := strconv.Atoi(header(notes, "Upload-Offset"))
				if err != nil || status != "204" {
					t.Fatalf("status %s: %s", status, notes)
				}
				if offset > 0 {
					resumed++
				}
				status, notes = curl("-T", filepath.Join(place.dir, "document"), "-C", fmt.Sprint(offset), "-H", "Expect: 100-continue", road.url+at)
				if status == "200" {
					break
				}
				if status != "000" && status != "100" {
					t.Fatalf("status %s: %s", status, notes)
				}
			}
			if !strings.Contains(notes, "HTTP/1.1 100 Continue") {
				t.Errorf("curl was not told to continue: %s", notes)
			}
			if want := c.cuts; c.kills && resumed != want+1 || !c.kills && resumed != want {
				t.Errorf("resumed %d times", resumed)
			}
			if road.left() > 0 {
				t.Errorf("%d cuts did not come", road.left())
			}
			intact(t, place.instances[1], bearer, at, place.files["document"])
		})
	}
}

// header finds a header of an answer in what curl -v says.
func header(notes, name string) string {
	for line := range strings.Lines(notes) {
		if value, found := strings.CutPrefix(strings.ToLower(line), "< "+strings.ToLower(name)+": "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
