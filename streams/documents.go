package streams

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"sluice/store"
	"sluice/streams/ocr"
)

// DocumentStore is the part of the store that knows which documents are to be read; its contract is that of store.Store.
type DocumentStore interface {
	ClaimDocument(ctx context.Context, instance string, lease time.Duration) (*store.DocumentClaim, error)
	RenewDocument(ctx context.Context, claim *store.DocumentClaim, lease time.Duration) error
	ReturnDocument(ctx context.Context, claim *store.DocumentClaim, after time.Duration, spent bool, reason string) error
	KnownDocument(ctx context.Context, claim *store.DocumentClaim) (*store.Document, error)
}

// Contents gives the bytes of an upload that is ready; its contract is that of Uploads.Content.
type Contents interface {
	Content(ctx context.Context, upload store.Upload, from, length int64) (io.ReadCloser, error)
}

// DocumentReader reads a file; its contract is that of ocr.Reader. What it has started is gone when it returns, also where
// ctx has ended.
type DocumentReader interface {
	Read(ctx context.Context, path, mimeType, documentType string) (ocr.Result, error)
}

// DocumentOptions say how this instance reads documents.
type DocumentOptions struct {
	Workers  int           // documents at once; 0: other instances read them
	Instance string        // this one's name, for whoever looks at the table
	Dir      string        // private to this process (Scratch): a document's bytes lie there while it is read
	Lease    time.Duration // of a claim that is not renewed; 0: 8 s
	Backoff  time.Duration // before the second attempt, and six times that before the third; 0: 5 s
}

const (
	documentAttempts = 3
	documentsPoll    = time.Second      // where no notification comes
	documentsSettle  = 10 * time.Second // for telling the database what has become of a document
)

// Documents reads uploads by OCR. Every instance runs one; a document is read by one worker of all of them at a time, and what
// it has given and the event that says so are one transaction.
type Documents struct {
	store    DocumentStore
	changer  Changer
	contents Contents
	reader   DocumentReader
	options  DocumentOptions
	metrics  *Metrics
	log      *slog.Logger
	woken    chan struct{} // one slot
}

// NewDocuments makes the workers; Run runs them.
func NewDocuments(documents DocumentStore, changer Changer, contents Contents, reader DocumentReader, options DocumentOptions,
	metrics *Metrics, log *slog.Logger,
) *Documents {
	if options.Lease == 0 {
		options.Lease = 8 * time.Second
	}
	if options.Backoff == 0 {
		options.Backoff = 5 * time.Second
	}
	return &Documents{documents, changer, contents, reader, options, metrics, log, make(chan struct{}, 1)}
}

// Wake says that there may be something to read. It does not block.
func (d *Documents) Wake() {
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

// Run reads documents until ctx ends. What is being read then is given back, for another instance to read.
func (d *Documents) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	busy := make(chan struct{}, d.options.Workers)
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case busy <- struct{}{}:
		}
		since := time.Now()
		claim, err := d.store.ClaimDocument(ctx, d.options.Instance, d.options.Lease)
		if claim != nil {
			group.Go(func() {
				defer func() { <-busy }()
				d.work(ctx, claim, since)
			})
			continue
		}
		<-busy
		if err != nil && !failing && ctx.Err() == nil {
			d.log.Warn("no documents can be claimed for now", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-d.woken:
		case <-time.After(documentsPoll + rand.N(documentsPoll/4)):
		}
	}
}

// work reads one document, which was claimed at a time, and sees to it that the database knows what has become of it.
func (d *Documents) work(ctx context.Context, claim *store.DocumentClaim, since time.Time) {
	reading, stop := context.WithCancelCause(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { d.hold(reading, stop, claim, since) })
	defer beside.Wait()
	defer stop(nil)
	began := time.Now()
	document, outcome, err := d.read(reading, claim)
	line := d.log.With("upload", claim.Upload.ID, "attempt", claim.Attempt, "ms", time.Since(began).Milliseconds())

	// What follows is fenced by the claim's number, so it need not end where the claim may be lost.
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), documentsSettle)
	defer cancel()
	switch {
	case errors.Is(context.Cause(reading), store.ErrClaimLost):
		outcome = documentLost
	case err != nil && ctx.Err() != nil:
		outcome = documentReturned
		err = errors.Join(err, d.store.ReturnDocument(settling, claim, 0, false, ""))
	case err != nil && !hopeless(err) && claim.Attempt < documentAttempts:
		outcome = documentRetried
		err = errors.Join(err, d.store.ReturnDocument(settling, claim, d.backoff(claim.Attempt), true, reasonOf(err)))
	default:
		if err != nil {
			outcome, document = documentFailed, store.Document{State: "failed", Error: reasonOf(err)}
		}
		outcome, err = d.finish(settling, claim, document, outcome, err)
	}
	d.metrics.Documents.WithLabelValues(outcome).Inc()
	level := slog.LevelInfo
	if err != nil && outcome != documentReturned {
		level = slog.LevelWarn
	}
	line.Log(ctx, level, "document", "outcome", outcome, "err", err)
}

// finish writes down what a document has come to. Where that does not go, it is read again.
func (d *Documents) finish(ctx context.Context, claim *store.DocumentClaim, document store.Document, outcome string, why error) (string, error) {
	_, err := d.changer.Change(ctx, &store.FinishDocument{Claim: claim, Document: document})
	switch {
	case err == nil:
		return outcome, why
	case errors.Is(err, store.ErrClaimLost):
		return documentLost, err
	}
	refused := errors.Is(err, store.ErrRefused)
	return documentReturned, errors.Join(why, err, d.store.ReturnDocument(ctx, claim, d.options.Backoff, refused, reasonOf(err)))
}

// hold renews a claim until ctx ends. Before anybody else can have it, it ends the reading.
func (d *Documents) hold(ctx context.Context, stop context.CancelCauseFunc, claim *store.DocumentClaim, since time.Time) {
	// The rest of the lease is for what was started to end.
	patience := d.options.Lease * 3 / 4
	end := time.AfterFunc(time.Until(since.Add(patience)), func() { stop(store.ErrClaimLost) })
	defer end.Stop()
	ticker := time.NewTicker(d.options.Lease / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		sent := time.Now()
		err := d.store.RenewDocument(ctx, claim, d.options.Lease)
		switch {
		case err == nil:
			end.Reset(time.Until(sent.Add(patience)))
		case errors.Is(err, store.ErrClaimLost):
			stop(err)
		}
	}
}

// read finds out what a document says: the same bytes are not read twice.
func (d *Documents) read(ctx context.Context, claim *store.DocumentClaim) (document store.Document, outcome string, err error) {
	if claim.Attempt > documentAttempts {
		return document, "", errNeverEnds
	}
	known, err := d.store.KnownDocument(ctx, claim)
	if err != nil || known != nil {
		if known != nil {
			document = *known
		}
		return document, documentReused, err
	}
	path, err := d.fetch(ctx, claim.Upload)
	if err != nil {
		return document, "", err
	}
	defer os.Remove(path)
	result, err := d.reader.Read(ctx, path, claim.Upload.MimeType, claim.Upload.DocumentType)
	if err != nil {
		return document, "", err
	}
	document = store.Document{State: "done", Text: storable(result.Text), Confidence: result.Confidence}
	fields := make(map[string]documentField, len(result.Fields))
	for name, field := range result.Fields {
		fields[name] = documentField(field)
	}
	document.Fields, err = json.Marshal(fields)
	return document, documentDone, err
}

// documentField is an ocr.Field as clients see it.
type documentField struct {
	Value             string  `json:"value"`
	Confidence        float64 `json:"confidence"`
	NeedsVerification bool    `json:"needsVerification"`
}

// fetch writes the bytes of an upload into a file for the reader, and checks that they are those that were verified.
func (d *Documents) fetch(ctx context.Context, upload store.Upload) (path string, err error) {
	content, err := d.contents.Content(ctx, upload, 0, upload.Size)
	if err != nil {
		return "", err
	}
	defer content.Close()
	file, err := os.CreateTemp(d.options.Dir, "document-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	digest := sha256.New()
	if _, err := io.Copy(io.MultiWriter(file, digest), content); err != nil {
		return "", err
	}
	if !bytes.Equal(digest.Sum(nil), upload.SHA256) {
		return "", errors.New("the bytes are not those that were verified")
	}
	return file.Name(), nil
}

// storable leaves out what Postgres does not take in a text.
func storable(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "�"), "\x00", "")
}

// backoff is how long after an attempt the next one begins.
func (d *Documents) backoff(attempt int) time.Duration {
	pause := d.options.Backoff
	for range attempt - 1 {
		pause *= 6
	}
	return pause
}

// errNeverEnds says that whoever began to read a document has never come to an end, not even to an error.
var errNeverEnds = errors.New("reading was begun too often and has never ended")

// hopeless says that another attempt would end the same way.
func hopeless(err error) bool {
	return errors.Is(err, ocr.ErrMissing) || errors.Is(err, ocr.ErrUnreadable) || errors.Is(err, ocr.ErrTooLarge)
}

// reasonOf is why reading has failed, as clients are told.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, ocr.ErrMissing):
		return err.Error() // which names what to install
	case errors.Is(err, ocr.ErrUnreadable):
		return "the file is damaged, or not what its type says"
	case errors.Is(err, ocr.ErrTooLarge):
		return "the file has too many pages or pixels"
	case errors.Is(err, ocr.ErrTooLong):
		return "reading the file takes too long"
	case errors.Is(err, errNeverEnds):
		return "reading the file was begun several times and has never ended"
	}
	return "something went wrong here; the log of the server names it by the id of the upload"
}
