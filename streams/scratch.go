package streams

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// Scratch is a directory that this process alone may look into, for as long as it lives: what lies there is gone with it, at
// the latest when the next process opens a Scratch in the same place.
type Scratch struct {
	Dir  string
	lock *os.File // of the directory: whoever gets it knows that its process is dead
}

const scratchName = "sluice-scratch-"

// OpenScratch makes one in a directory, and removes those that dead processes have left there. What other users have is theirs.
func OpenScratch(parent string) (*Scratch, error) {
	left, err := filepath.Glob(filepath.Join(parent, scratchName+"*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range left {
		if lock, err := lockDir(dir); err == nil {
			_ = os.RemoveAll(dir)
			_ = lock.Close()
		}
	}
	for {
		dir, err := os.MkdirTemp(parent, scratchName)
		if err != nil {
			return nil, err
		}
		lock, err := lockDir(dir)
		if err != nil {
			continue // another process that opens one took it for left, for it was not locked yet
		}
		if _, err := os.Stat(dir); err == nil {
			return &Scratch{dir, lock}, nil
		}
		_ = lock.Close() // the same, a moment later
	}
}

func lockDir(dir string) (*os.File, error) {
	file, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0) // others may write in the same place
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// Close removes the directory with all that is in it.
func (s *Scratch) Close() error { return errors.Join(os.RemoveAll(s.Dir), s.lock.Close()) }
