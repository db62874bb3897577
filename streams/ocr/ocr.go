package ocr

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// What Read answers beside a result. None of these is helped by another try, but for ErrMissing, after an installation.
var (
	// ErrMissing says that a program or a language is not installed; its text names what to install.
	ErrMissing = errors.New("not installed")

	// ErrUnreadable says that the file is broken, or not what it is said to be.
	ErrUnreadable = errors.New("the document cannot be read")

	// ErrTooLarge says that the document has more pixels, pages or text than one may have, or needs more memory.
	ErrTooLarge = errors.New("the document is too large to be read")

	// ErrTooLong says that reading took longer than one document may take.
	ErrTooLong = errors.New("reading the document took too long")
)

// Options limit what one document may cost. Zero values mean the defaults.
type Options struct {
	Languages string        // of Tesseract: "eng", the default, or "eng+deu"
	Timeout   time.Duration // of one document; 2m
	Memory    int64         // bytes of address space of one child; 1 GiB
	Pages     int           // of one document; 10
	Pixels    int64         // of one page; 40 million
	Output    int64         // bytes of text; 1 MiB
	Dir       string        // for private temporary files; os.TempDir()
}

// Result is what a document says.
type Result struct {
	Text       string
	Fields     map[string]Field // by the names of its type; only what was found
	Confidence float64          // of all words; 0–100, 0 where there are none
	Pages      int              // that were read
}

// Field is one thing that a document says.
type Field struct {
	Value             string  // dates as 2001-05-17
	Confidence        float64 // 0–100
	NeedsVerification bool    // by a person: the reading is not sure, or a check of it failed
}

// Reader reads documents. It is safe for concurrent use, and each Read runs one program at a time.
type Reader struct {
	options Options
	found   atomic.Bool // everything was there once
}

// NewReader is cheap and looks at nothing: Missing says whether reading will do.
func NewReader(o Options) *Reader {
	if o.Languages == "" {
		o.Languages = "eng"
	}
	if o.Timeout <= 0 {
		o.Timeout = 2 * time.Minute
	}
	if o.Memory <= 0 {
		o.Memory = 1 << 30
	}
	if o.Pages <= 0 {
		o.Pages = 10
	}
	if o.Pixels <= 0 {
		o.Pixels = 40_000_000
	}
	if o.Output <= 0 {
		o.Output = 1 << 20
	}
	return &Reader{options: o}
}

// packages are Debian's, by the program that each brings.
var packages = [][2]string{
	{"tesseract", "tesseract-ocr"},
	{"pdfinfo", "poppler-utils"},
	{"pdftotext", "poppler-utils"},
	{"pdftoppm", "poppler-utils"},
	{"nice", "coreutils"},
	{"sh", "dash"},
}

var languages = regexp.MustCompile(`^[a-z_]+(\+[a-z_]+)*$`)

// Missing is nil where documents can be read, and else ErrMissing, wrapped in words that name what to install.
func (r *Reader) Missing(ctx context.Context) error {
	for _, one := range packages {
		if _, err := exec.LookPath(one[0]); err != nil {
			return fmt.Errorf("%s is %w: it comes with the package %s", one[0], ErrMissing, one[1])
		}
	}
	if !languages.MatchString(r.options.Languages) {
		return fmt.Errorf("the languages %q are %w: a list is eng, or eng+deu", r.options.Languages, ErrMissing)
	}
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	printed, err := r.output(ctx, os.TempDir(), 1<<20, "tesseract", "--list-langs")
	if err != nil {
		return err
	}
	// The first line names the directory.
	installed := strings.Fields(strings.Join(strings.Split(string(printed), "\n")[1:], " "))
	for _, one := range append(strings.Split(r.options.Languages, "+"), "osd") {
		if !slices.Contains(installed, one) {
			return fmt.Errorf("the language %s is %w: it comes with the package tesseract-ocr-%s", one, ErrMissing, strings.ReplaceAll(one, "_", "-"))
		}
	}
	r.found.Store(true)
	return nil
}

// readers are the types of documents that there is something to read in, with what finds their fields; nil: text only.
var readers = map[string]func(*document){
	"aadhaar": readAadhaar, "pan_card": readPAN, "passport": readPassport, "driving_license": readLicence,
	"election_card": readElection, "visa": readVisa, "other": nil, "image": nil,
}

// Reads says whether Read has something to do with such a document; with tables it has not.
func (r *Reader) Reads(mimeType, documentType string) bool {
	_, known := readers[documentType]
	return known && (mimeType == typePDF || formats[mimeType] != "")
}

// Read reads the file at path, of which its uploader says what it is. When ctx ends it gives up with ctx's error. When it
// returns, no program of its runs any more.
func (r *Reader) Read(ctx context.Context, path, mimeType, documentType string) (Result, error) {
	if !r.Reads(mimeType, documentType) {
		return Result{}, fmt.Errorf("%w: there are no readers for %s as %s", ErrUnreadable, mimeType, documentType)
	}
	if !r.found.Load() {
		if err := r.Missing(ctx); err != nil {
			return Result{}, err
		}
	}
	// A path that is not absolute might be taken for an option, or for an address in the network.
	path, err := filepath.Abs(path)
	if err != nil {
		return Result{}, err
	}
	dir, err := os.MkdirTemp(r.options.Dir, "sluice-ocr-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)
	limited, cancel := context.WithTimeoutCause(ctx, r.options.Timeout, ErrTooLong)
	defer cancel()
	d := &document{}
	if mimeType == typePDF {
		err = r.readPDF(limited, dir, path, d)
	} else {
		err = r.readImage(limited, dir, path, formats[mimeType], d)
	}
	if err != nil {
		return Result{}, err
	}
	result := Result{Text: d.text(), Confidence: d.confidence(), Pages: d.pages}
	if int64(len(result.Text)) > r.options.Output {
		return Result{}, fmt.Errorf("%w: its text has more than %d bytes", ErrTooLarge, r.options.Output)
	}
	result.Fields = d.fields(documentType)
	return result, nil
}
