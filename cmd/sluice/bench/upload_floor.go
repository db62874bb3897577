package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// UploadFloor is the least that taking a file can cost on this machine: it reads each body, digests chunk and file, and
// writes. It is a process of its own, beside the server.
type UploadFloor struct {
	Dir string `required:"" help:"Directory on the disk of the server."`
}

// Run prints its address, and serves until its input ends.
func (f *UploadFloor) Run() error {
	dir, err := os.MkdirTemp(f.Dir, "floor")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	files := &floorFiles{dir: dir, open: map[string]*floorFile{}}
	routes := http.NewServeMux()
	routes.HandleFunc("PUT /files/{name}", files.chunk)
	routes.HandleFunc("POST /files/{name}", files.form)
	routes.HandleFunc("DELETE /files/{name}", files.remove)
	server := &http.Server{Handler: routes}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Println(listener.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	_ = server.Shutdown(context.Background())
	if stopped := <-served; !errors.Is(stopped, http.ErrServerClosed) {
		err = errors.Join(err, stopped)
	}
	return err
}

type floorFiles struct {
	dir  string
	mu   sync.Mutex
	open map[string]*floorFile // guarded by mu
}

type floorFile struct {
	file  *os.File
	whole hash.Hash
}

// chunk takes one chunk. One that begins at 0 begins the file anew.
func (f *floorFiles) chunk(w http.ResponseWriter, r *http.Request) {
	span, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Content-Range"), "bytes "), "/")
	first, last, _ := strings.Cut(span, "-")
	f.mu.Lock()
	to := f.open[r.PathValue("name")]
	f.mu.Unlock()
	if first == "0" {
		file, err := os.Create(filepath.Join(f.dir, r.PathValue("name")))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		to = &floorFile{file, sha256.New()}
		f.mu.Lock()
		f.open[r.PathValue("name")] = to
		f.mu.Unlock()
	}
	chunk := sha256.New()
	buffer := make([]byte, 64<<10)
	var err error
	for err == nil {
		var n int
		n, err = io.ReadFull(r.Body, buffer)
		_, _ = chunk.Write(buffer[:n])
		_, _ = to.whole.Write(buffer[:n])
		if _, failed := to.file.Write(buffer[:n]); failed != nil {
			err = failed
		}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Digest", fmt.Sprintf("sha-256=:%x:", chunk.Sum(nil)))
	if end, _ := strconv.ParseInt(last, 10, 64); r.Header.Get("Content-Range") == fmt.Sprintf("bytes %s-%d/%d", first, end, end+1) {
		to.whole.Sum(nil)
		_ = to.file.Close()
	}
	w.WriteHeader(http.StatusNoContent)
}

// form takes a whole file out of a form, and only writes it.
func (f *floorFiles) form(w http.ResponseWriter, r *http.Request) {
	err := func() error {
		parts, err := r.MultipartReader()
		if err != nil {
			return err
		}
		part, err := parts.NextPart()
		if err != nil {
			return err
		}
		file, err := os.Create(filepath.Join(f.dir, r.PathValue("name")))
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(file, part)
		return err
	}()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// remove deletes a file.
func (f *floorFiles) remove(w http.ResponseWriter, r *http.Request) {
	if err := os.Remove(filepath.Join(f.dir, r.PathValue("name"))); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
