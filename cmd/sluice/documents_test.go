package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/handlers"
)

// pan is a document of one page whose text need not be recognised.
func pan() string {
	const text = "BT /F1 12 Tf 14 TL 20 250 Td (INCOME TAX DEPARTMENT) Tj T* (Permanent Account Number Card) Tj T* (ABCPS1234Z) Tj T* " +
		"(Name) Tj T* (ANNA SPECIMEN) Tj T* (Date of Birth) Tj T* (17/05/2001) Tj ET"
	return fmt.Sprintf("%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"+
		"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 400 300]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>endobj\n"+
		"4 0 obj<</Length %d>>stream\n%s\nendstream endobj\n5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\n"+
		"trailer<</Root 1 0 R>>\n%%%%EOF\n", len(text), text)
}

// resource is what an upload says of itself.
type resource struct {
	ID, State string
	OCR       struct {
		State, Text, Error string
		Fields             map[string]struct{ Value string }
	}
}

// request makes one, and reads the answer into to where it is what is expected.
func (p *process) request(method, path, token, kind, body string, status int, to any) {
	p.t.Helper()
	request, err := http.NewRequest(method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", kind)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode == status {
		err = json.Unmarshal(text, to)
	}
	if err != nil || response.StatusCode != status {
		p.t.Fatalf("%s %s: %d %s, %v", method, path, response.StatusCode, text, err)
	}
}

// bring uploads a document and returns its path.
func (p *process) bring(token, file string) string {
	p.t.Helper()
	var made resource
	p.request("POST", "/v2/uploads", token, "application/json", fmt.Sprintf(`{"filename":"pan.pdf","mimeType":"application/pdf",
		"documentType":"pan_card","size":%d,"guestId":"42"}`, len(file)), 201, &made)
	path := "/v2/uploads/" + made.ID
	if p.request("PUT", path, token, "application/octet-stream", file, 200, &made); made.State != "ready" {
		p.t.Fatalf("%+v", made)
	}
	return path
}

// programs makes a directory with one program in it, and gives the environment in which it is found first.
func programs(t *testing.T, name, script string) []string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
}

// eventually polls until something is so.
func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.After(2 * patience); !met(); {
		select {
		case <-deadline:
			t.Fatal(what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestDocumentsAreRead uploads a document by one instance that reads none, and another one reads it: its event arrives, and
// tells nothing of what was read.
func TestDocumentsAreRead(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	front := serve(t, append(flags, "--ocr-workers=0")...)
	serve(t, flags...)
	user := token(t, handlers.Claims{Org: "1", User: "7"})
	events := front.open(transports()[0], user, "services=guest", "")
	defer events.cut()
	path := front.bring(user, pan())
	var told []string
	for len(told) < 2 {
		one, ok := events.next()
		if !ok {
			t.Fatalf("the stream has ended after %q", told)
		}
		if strings.Contains(one.text, "guest_document_") {
			told = append(told, one.text)
		}
	}
	if !strings.Contains(told[0], `"guest_document_uploaded"`) || !strings.Contains(told[0], `"status":"processing"`) ||
		!strings.Contains(told[1], `"guest_document_extracted"`) || !strings.Contains(told[1], `"entityId":"42"`) ||
		!strings.Contains(told[1], "panNumber") {
		t.Errorf("%q", told)
	}
	if strings.Contains(told[1], "ABCPS1234Z") {
		t.Errorf("the log tells what was read: %s", told[1])
	}
	var got resource
	front.request("GET", path, user, "", "", 200, &got)
	if got.OCR.State != "done" || got.OCR.Fields["panNumber"].Value != "ABCPS1234Z" || !strings.Contains(got.OCR.Text, "ANNA SPECIMEN") {
		t.Errorf("%+v", got)
	}
}

// TestDocumentsOfTheDead kills an instance while it reads: another one does, once the claim has run out, and nothing of what
// was read first is left behind.
func TestDocumentsOfTheDead(t *testing.T) {
	t.Parallel()
	flags, places := shared(t), t.TempDir()
	started := filepath.Join(places, "started")
	first := serveIn(t, append(programs(t, "pdfinfo", "echo $$ > "+started+".new; mv "+started+".new "+started+"; exec sleep 600"),
		"TMPDIR="+places), flags...)
	user := token(t, handlers.Claims{Org: "1", User: "7"})
	path := first.bring(user, pan())
	var child int
	eventually(t, "nobody reads", func() bool {
		text, err := os.ReadFile(started)
		child, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	})
	first.kill()
	if left, err := filepath.Glob(filepath.Join(places, "sluice-scratch-*")); err != nil || len(left) != 1 {
		t.Fatalf("the one killed leaves %v, %v", left, err)
	}
	eventually(t, "what it had started goes on", func() bool { return syscall.Kill(child, 0) != nil })

	second := serveIn(t, []string{"TMPDIR=" + places}, flags...)
	var got resource
	eventually(t, "nobody takes over", func() bool {
		second.request("GET", path, user, "", "", 200, &got)
		return got.OCR.State == "done"
	})
	if got.OCR.Fields["panNumber"].Value != "ABCPS1234Z" {
		t.Errorf("%+v", got)
	}
	if err := second.stop(); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(places, "sluice-scratch-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestDocumentsOfTheDrained stops an instance while it reads: another one reads at once, and what was started is gone.
func TestDocumentsOfTheDrained(t *testing.T) {
	t.Parallel()
	flags := shared(t)
	started := filepath.Join(t.TempDir(), "started")
	first := serveIn(t, programs(t, "pdfinfo", "echo $$ > "+started+".new; mv "+started+".new "+started+"; exec sleep 600"), flags...)
	user := token(t, handlers.Claims{Org: "1", User: "7"})
	path := first.bring(user, pan())
	var child int
	eventually(t, "nobody reads", func() bool {
		text, err := os.ReadFile(started)
		child, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	})
	second := serve(t, append(flags, "--ocr-workers=0")...)
	if err := first.stop(); err != nil {
		t.Error(err)
	}
	if syscall.Kill(child, 0) == nil {
		t.Error("what it had started goes on")
	}
	var got resource
	if second.request("GET", path, user, "", "", 200, &got); got.OCR.State != "queued" || got.OCR.Error != "" {
		t.Errorf("%+v", got)
	}
}

// TestDocumentsWithoutPrograms reads where no programs for it are: the upload is ready, and says why it is not read.
func TestDocumentsWithoutPrograms(t *testing.T) {
	t.Parallel()
	p := serveIn(t, []string{"PATH=/nowhere"}, shared(t)...)
	user := token(t, handlers.Claims{Org: "1", User: "7"})
	path := p.bring(user, pan())
	var got resource
	eventually(t, "it is not told", func() bool {
		p.request("GET", path, user, "", "", 200, &got)
		return got.OCR.State == "failed"
	})
	if got.State != "ready" || !strings.Contains(got.OCR.Error, "tesseract-ocr") {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(p.errors.String(), "documents cannot be read here") {
		t.Error("the log does not say so")
	}
}
