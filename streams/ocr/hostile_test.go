package ocr

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/jpeg"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bomb is a PNG that says how wide and high it is, one bit for each pixel, and has the first thousand rows of black ones.
func bomb(t *testing.T, side int) []byte {
	t.Helper()
	var packed bytes.Buffer
	writer := zlib.NewWriter(&packed)
	row := make([]byte, 1+(side+7)/8)
	for range min(side, 1000) {
		if _, err := writer.Write(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	out := bytes.NewBufferString("\x89PNG\r\n\x1a\n")
	chunk := func(kind string, content []byte) {
		whole := append([]byte(kind), content...)
		out.Write(binary.BigEndian.AppendUint32(nil, uint32(len(content))))
		out.Write(binary.BigEndian.AppendUint32(whole, crc32.ChecksumIEEE(whole)))
	}
	chunk("IHDR", append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(side)), uint32(side)), 1, 0, 0, 0, 0))
	chunk("IDAT", packed.Bytes())
	chunk("IEND", nil)
	return out.Bytes()
}

// onePage is a PDF of one empty page of a size.
func onePage(box string) []byte {
	return printed("<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>",
		"<</Type/Page/Parent 2 0 R/MediaBox["+box+"]>>")
}

// TestHostile refuses what is broken, or would cost too much, at once and for the right reason.
func TestHostile(t *testing.T) {
	var photograph bytes.Buffer
	if err := jpeg.Encode(&photograph, page(t, specimens[0].lines...), nil); err != nil {
		t.Fatal(err)
	}
	manyPages := make([][]string, 10_000)
	const png, pdf = "image/png", "application/pdf"
	for name, c := range map[string]struct {
		mime    string
		content []byte
		want    error
	}{
		"a bomb":                   {png, bomb(t, 30_000), ErrTooLarge},
		"10,000 pages":             {pdf, textPDF(manyPages...), ErrTooLarge},
		"said to be 10,000 pages":  {pdf, bytes.Replace(textPDF(nil, nil), []byte("/Count 2"), []byte("/Count 10000"), 1), ErrUnreadable},
		"a huge page":              {pdf, onePage("0 0 200000 200000"), ErrTooLarge},
		"a page as wide as nobody": {pdf, onePage("0 0 1000000000 1"), ErrTooLarge},
		"pages that are pages":     {pdf, printed("<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[2 0 R]/Count 3>>"), ErrUnreadable},
		"half a photograph":        {"image/jpeg", photograph.Bytes()[:photograph.Len()/2], ErrUnreadable},
		"half a picture":           {png, bomb(t, 500)[:100], ErrUnreadable},
		"half a PDF":               {pdf, imagePDF(t, "", page(t, "SPECIMEN"))[:300], ErrUnreadable},
		"a text":                   {png, []byte("/etc/hostname\n"), ErrUnreadable},
		"a text as a PDF":          {pdf, []byte("hello\n"), ErrUnreadable},
		"a photograph as a PNG":    {png, photograph.Bytes(), ErrUnreadable},
		"nothing":                  {png, nil, ErrUnreadable},
		"nothing as a PDF":         {pdf, nil, ErrUnreadable},
		"a table":                  {"text/csv", []byte("a,b\n"), ErrUnreadable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			got, err := NewReader(Options{Dir: dir}).Read(t.Context(), saved(t, "file", c.content), c.mime, "other")
			if !errors.Is(err, c.want) {
				t.Errorf("%+v, %v; want %v", got, err, c.want)
			}
			expectGone(t, dir)
		})
	}
}

// TestHostileContents opens files that are whole, and lead nowhere: there is an end to them.
func TestHostileContents(t *testing.T) {
	loop := printed("<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>",
		"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</XObject<</F 5 0 R>>>>>>",
		stream("", "/F Do"), stream("/Type/XObject/Subtype/Form/BBox[0 0 200 200]/Resources<</XObject<</F 5 0 R>>>>", "/F Do /F Do"))
	hidden := imagePDF(t, "0 0 200000 200000", page(t, "SPECIMEN"))
	for name, c := range map[string]struct {
		content []byte
		text    string
	}{"a form in itself": {loop, ""}, "a huge page of which little is seen": {hidden, "SPECIMEN"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			got, err := NewReader(Options{Dir: dir}).Read(t.Context(), saved(t, "file", c.content), "application/pdf", "other")
			if err != nil || got.Text != c.text || got.Pages != 1 {
				t.Errorf("%+v, %v", got, err)
			}
			expectGone(t, dir)
		})
	}
}

// TestLimits keeps a child from more memory and more text than it may have.
func TestLimits(t *testing.T) {
	wide := saved(t, "picture", asPNG(t, image.NewGray(image.Rect(0, 0, 5000, 5000))))
	lines := slices.Repeat([]string{strings.Repeat("specimen ", 8)}, 12)
	text := saved(t, "text", textPDF(lines))
	for name, c := range map[string]struct {
		options    Options
		path, mime string
	}{
		"memory":        {Options{Memory: 160 << 20}, wide, "image/png"},
		"pixels":        {Options{Pixels: 1000}, wide, "image/png"},
		"text":          {Options{Output: 500}, text, "application/pdf"},
		"a lot of text": {Options{Output: 100}, text, "application/pdf"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := NewReader(c.options).Read(t.Context(), c.path, c.mime, "other"); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// expectGone finds nothing of a reading: no process works in the directory, and nothing is left there.
func expectGone(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
	places, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range places {
		if where, err := os.Readlink(place); err == nil && strings.HasPrefix(where, dir) {
			t.Errorf("%s works in %s still", place, where)
		}
	}
}

// stub puts a tesseract of our own first on the PATH. Its languages are as they should be.
func stub(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	text := "#!/bin/sh\n[ \"$1\" != --list-langs ] || { printf 'here:\\neng\\nosd\\n'; exit; }\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(dir, "tesseract"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestTimeout ends a program that hangs, with all that it has started, and says so; where it is the caller who gives up, it is
// the caller's error.
func TestTimeout(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	stub(t, fmt.Sprintf("sleep 1000 & echo $$ $! >%[1]s.new; mv %[1]s.new %[1]s; sleep 1000", started))
	path := saved(t, "specimen", asPNG(t, page(t, "SPECIMEN")))
	for name, c := range map[string]struct {
		timeout time.Duration
		want    error
	}{"our time": {300 * time.Millisecond, ErrTooLong}, "the caller's": {time.Minute, context.Canceled}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := NewReader(Options{Dir: dir, Timeout: c.timeout})
			r.found.Store(true)
			answer := make(chan error, 1)
			go func() {
				_, err := r.Read(ctx, path, "image/png", "other")
				answer <- err
			}()
			pids := pidsIn(t, started, answer)
			if c.want == context.Canceled {
				cancel()
			}
			if err := <-answer; !errors.Is(err, c.want) || errors.Is(err, ErrTooLong) != (c.want == ErrTooLong) {
				t.Error(err)
			}
			for _, pid := range pids {
				expectDead(t, pid)
			}
			if err := syscall.Kill(pids[0], 0); err != syscall.ESRCH {
				t.Errorf("it was not reaped: %v", err)
			}
			expectGone(t, dir)
		})
	}
}

// pidsIn waits for the numbers of processes in a file, and takes the file away.
func pidsIn(t *testing.T, path string, ended chan error) []int {
	t.Helper()
	deadline := time.After(30 * time.Second)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if text, err := os.ReadFile(path); err == nil {
			var pids []int
			for _, one := range strings.Fields(string(text)) {
				pid, err := strconv.Atoi(one)
				if err != nil {
					t.Fatal(err)
				}
				pids = append(pids, pid)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			return pids
		}
		select {
		case <-poll.C:
		case err := <-ended:
			t.Fatalf("it has ended before it began: %v", err)
		case <-deadline:
			t.Fatal("it does not start")
		}
	}
}

// expectDead waits until a process is none, or a corpse that its new parent has not looked at yet.
func expectDead(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if _, rest, _ := strings.Cut(string(stat), ") "); err != nil || strings.HasPrefix(rest, "Z") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d lives: %s", pid, stat)
		}
	}
}

// TestLeftBehind kills what a program leaves running when it ends by itself.
func TestLeftBehind(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	stub(t, fmt.Sprintf("sleep 1000 >/dev/null 2>&1 & echo $! >%[1]s", started))
	r := NewReader(Options{})
	if _, err := r.Read(t.Context(), saved(t, "specimen", asPNG(t, image.NewGray(image.Rect(0, 0, 9, 9)))), "image/png", "other"); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pidsIn(t, started, nil) {
		expectDead(t, pid)
	}
}

// TestVerdict tells documents that are to blame from machines that are.
func TestVerdict(t *testing.T) {
	path := saved(t, "specimen", asPNG(t, page(t, "SPECIMEN")))
	for name, c := range map[string]struct {
		script string
		want   error // nil: none of ours
	}{
		"an error with status 0": {"echo 'Error in pixReadMem: no pix' >&2", ErrUnreadable},
		"a failure":              {"echo no >&2; exit 1", ErrUnreadable},
		"a crash":                {"kill -SEGV $$", ErrUnreadable},
		"no memory":              {"echo 'std::bad_alloc' >&2; kill -ABRT $$", ErrTooLarge},
		"a flood":                {"yes", ErrTooLarge},
		"killed by the kernel":   {"kill -KILL $$", nil},
		"no program":             {"exit 127", nil},
	} {
		t.Run(name, func(t *testing.T) {
			stub(t, c.script)
			_, err := NewReader(Options{}).Read(t.Context(), path, "image/png", "other")
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if c.want == nil && (err == nil || errors.Is(err, ErrUnreadable) || errors.Is(err, ErrTooLarge)) {
				t.Errorf("%v blames the document", err)
			}
		})
	}
}

// TestMissing names what is to be installed.
func TestMissing(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		hide    bool
		says    []string
	}{
		"everything there": {},
		"no programs":      {hide: true, says: []string{"tesseract", "tesseract-ocr"}},
		"no such language": {options: Options{Languages: "eng+tlh"}, says: []string{"tesseract-ocr-tlh"}},
		"no language":      {options: Options{Languages: "eng;rm"}, says: []string{"eng;rm"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.hide {
				t.Setenv("PATH", t.TempDir())
			}
			r := NewReader(c.options)
			_, err := r.Read(t.Context(), saved(t, "specimen", asPNG(t, image.NewGray(image.Rect(0, 0, 9, 9)))), "image/png", "other")
			for _, err := range []error{r.Missing(t.Context()), err} {
				if errors.Is(err, ErrMissing) != (len(c.says) > 0) {
					t.Errorf("%v", err)
				}
				for _, want := range c.says {
					if !strings.Contains(fmt.Sprint(err), want) {
						t.Errorf("%v does not say %q", err, want)
					}
				}
			}
		})
	}
}
