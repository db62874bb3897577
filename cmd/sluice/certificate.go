package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// reloadingTLS serves the certificate of two files and reads them again when either changes, so that a renewal needs
// no restart. Files that cannot be used leave the certificate in force that was.
func reloadingTLS(certFile, keyFile string, log *slog.Logger) (*tls.Config, error) {
	kept := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := kept.load(); err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return kept.current(), nil
		},
	}, nil
}

type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	loaded  *tls.Certificate // guarded by mu
	changed [2]time.Time     // guarded by mu: of the files as they were when read
	checked time.Time        // guarded by mu
}

// checkEvery bounds how often handshakes look at the files.
const checkEvery = time.Second

func (c *certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < checkEvery {
		return c.loaded
	}
	c.checked = time.Now()
	if c.modified() == c.changed {
		return c.loaded
	}
	if err := c.load(); err != nil {
		c.log.Error("the new TLS certificate cannot be used; the old one stays in force", "err", err)
	} else {
		c.log.Info("the TLS certificate was read again")
	}
	return c.loaded
}

// load reads the files. The times are taken first: a file that changes while it is read is read once more.
func (c *certificate) load() error {
	changed := c.modified()
	loaded, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.loaded, c.changed = &loaded, changed
	return nil
}

func (c *certificate) modified() (times [2]time.Time) {
	for i, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil {
			times[i] = info.ModTime()
		}
	}
	return times
}
