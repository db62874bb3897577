package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// keptSecret reads the generated secret, or makes it: written beside and linked into place, so that of two that start
// at once both read the same.
func keptSecret(dir string) ([]byte, error) {
	path := filepath.Join(dir, "jwt.secret")
	for {
		text, err := os.ReadFile(path)
		if err == nil {
			if secret := strings.TrimSpace(string(text)); secret != "" {
				return []byte(secret), nil
			}
			return nil, fmt.Errorf("%s is empty: remove it, and the next start makes another", path)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := makeSecret(dir, path); err != nil {
			return nil, err
		}
	}
}

// makeSecret writes 32 random bytes to path unless somebody else has. If we stop before the link, a temporary file is
// left and no secret; after it, the secret is whole and synced.
func makeSecret(dir, path string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, "jwt.secret.*") // readable by its owner only
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	random := make([]byte, 32)
	_, _ = rand.Read(random) // it never fails
	_, err = file.WriteString(hex.EncodeToString(random) + "\n")
	if err == nil {
		err = file.Sync()
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	if err := os.Link(file.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}
