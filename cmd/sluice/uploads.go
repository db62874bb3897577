package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"sluice/cmd/sluice/units"
	"sluice/store"
	"sluice/store/blobs"
	"sluice/streams"
	"sluice/streams/ocr"
)

// uploadFlags are the settings of uploads and of reading them.
type uploadFlags struct {
	Blobs         string           `env:"SLUICE_BLOBS" placeholder:"URL" help:"Where the bytes of uploads lie: file:///directory, which instances share, or s3://bucket/prefix?endpoint=…&region=…; none: <data>/uploads."`
	UploadMaxSize units.Bytes      `name:"upload-max-size" env:"SLUICE_UPLOAD_MAX_SIZE" default:"100MiB" help:"Largest upload."`
	UploadSync    blobs.SyncPolicy `name:"upload-sync" env:"SLUICE_UPLOAD_SYNC" enum:"chunk,complete,none" default:"complete" help:"What is on the disk before it is acknowledged: every chunk, the complete file, or none of it."`
	UploadExpiry  time.Duration    `name:"upload-expiry" env:"SLUICE_UPLOAD_EXPIRY" default:"24h" help:"How long after its last byte an unfinished upload is kept."`
	UploadQuota   units.Bytes      `name:"upload-quota" env:"SLUICE_UPLOAD_QUOTA" default:"5GiB" help:"Bytes that the uploads of one user hold."`
	UploadOpen    int              `name:"upload-open" env:"SLUICE_UPLOAD_OPEN" default:"20" help:"Unfinished uploads of one user."`
	OCRWorkers    int              `name:"ocr-workers" env:"SLUICE_OCR_WORKERS" default:"1" help:"Documents that this instance reads at a time. 0: others read them."`
	OCRLangs      string           `name:"ocr-langs" env:"SLUICE_OCR_LANGS" default:"eng" placeholder:"LANG+LANG" help:"Languages that tesseract reads."`
}

var languages = regexp.MustCompile(`^[a-z_]+(\+[a-z_]+)*$`)

// check refuses what cannot be, and names the flag.
func (f *uploadFlags) check() error {
	if f.Blobs != "" {
		at, err := url.Parse(f.Blobs)
		switch {
		case err != nil, at.Scheme != "file" && at.Scheme != "s3":
			return fmt.Errorf("--blobs is %q; it must be a URL such as file:///srv/uploads or s3://bucket/prefix?region=eu-central-1", f.Blobs)
		case at.Scheme == "file" && (at.Host != "" || !filepath.IsAbs(at.Path)):
			return fmt.Errorf("--blobs is %q; a directory is named by its whole path, such as file:///srv/uploads", f.Blobs)
		case at.Scheme == "s3" && at.Host == "":
			return fmt.Errorf("--blobs is %q; it names no bucket: s3://bucket/prefix", f.Blobs)
		}
	}
	switch {
	case f.UploadMaxSize < 1:
		return errors.New("--upload-max-size must be 1B at least")
	case f.UploadQuota < f.UploadMaxSize:
		return fmt.Errorf("--upload-quota is %s, which is less than --upload-max-size: %s", f.UploadQuota, f.UploadMaxSize)
	case f.UploadOpen < 1:
		return fmt.Errorf("--upload-open is %d; it must be 1 at least", f.UploadOpen)
	case f.UploadExpiry < time.Second:
		return fmt.Errorf("--upload-expiry is %s; it must be 1s at least", f.UploadExpiry)
	case f.OCRWorkers < 0 || f.OCRWorkers > 64:
		return fmt.Errorf("--ocr-workers is %d; it must be from 0 to 64", f.OCRWorkers)
	case !languages.MatchString(f.OCRLangs):
		return fmt.Errorf("--ocr-langs is %q; it must be languages of tesseract such as eng or eng+deu", f.OCRLangs)
	}
	return nil
}

// blobStore opens where the bytes of uploads lie.
func (f *serveFlags) blobStore(ctx context.Context) (blobs.Store, error) {
	if f.Blobs == "" {
		return blobs.OpenDisk(filepath.Join(f.Data, "uploads"), f.UploadSync)
	}
	at, err := url.Parse(f.Blobs)
	if err != nil {
		return nil, err
	}
	if at.Scheme == "s3" {
		return blobs.OpenS3(ctx, f.Blobs)
	}
	return blobs.OpenDisk(at.Path, f.UploadSync)
}

// uploads opens what takes uploads and what reads them.
func (i *instance) uploads(ctx context.Context, metrics *streams.Metrics) error {
	flags := i.flags
	bytes, err := flags.blobStore(ctx)
	if err != nil {
		return fmt.Errorf("--blobs: %w", err)
	}
	i.sharing = streams.NewSharing(i.events, bytes, i.name, i.log)
	if err := i.sharing.Start(ctx); err != nil {
		return fmt.Errorf("--blobs: %w", err)
	}
	i.background(i.sharing.Run)
	// Not below --data: what lies here is to be gone with the process, and the system's own place may be in memory.
	scratch, err := streams.OpenScratch(os.TempDir())
	if err != nil {
		return err
	}
	i.onClose(func() { _ = scratch.Close() })
	reader := ocr.NewReader(ocr.Options{Languages: flags.OCRLangs, Dir: scratch.Dir})
	i.incoming = streams.NewUploads(i.events, bytes, i.appender, streams.UploadOptions{
		UploadLimits: store.UploadLimits{
			MaxSize: int64(flags.UploadMaxSize), Quota: int64(flags.UploadQuota), Open: flags.UploadOpen, Expiry: flags.UploadExpiry,
		},
		Instance: i.name, Reads: reader.Reads, Log: i.log,
	}, metrics)
	i.onClose(func() {
		stopping, cancel := context.WithTimeout(context.Background(), appendStop)
		defer cancel()
		i.incoming.Close(stopping)
	})
	if err := i.incoming.Mark(ctx); err != nil {
		i.log.Warn("leftovers of uploads are not collected", "err", err)
	}
	i.background(i.incoming.Run)
	i.documents = streams.NewDocuments(i.events, i.appender, i.incoming, reader, streams.DocumentOptions{
		Workers: flags.OCRWorkers, Instance: i.name, Dir: scratch.Dir,
	}, metrics, i.log)
	i.background(func(ctx context.Context) {
		if err := reader.Missing(ctx); err != nil && flags.OCRWorkers > 0 && ctx.Err() == nil {
			i.log.Warn("documents cannot be read here", "err", err)
		}
		i.documents.Run(ctx)
	})
	return nil
}
