package localpg

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// owner is the user that Postgres runs as: our own, or, for it refuses to run as root, an unprivileged one.
type owner struct {
	name     string
	uid, gid uint32
	other    bool // not our own user
}

func childOwner() (owner, error) {
	if os.Geteuid() != 0 {
		return owner{name: "self", uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(found.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(found.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return owner{name: name, uid: uint32(uid), gid: uint32(gid), other: true}, nil
		}
	}
	return owner{}, errors.New("postgres does not run as root, and there is neither a user postgres nor nobody: start Sluice as an ordinary user, or name a database with --database-url")
}

// own hands a directory over.
func (o owner) own(path string) error {
	if !o.other {
		return nil
	}
	return os.Chown(path, int(o.uid), int(o.gid))
}

// trusts says whether a directory of a user may be ours.
func (o owner) trusts(uid uint32) bool { return uid == o.uid || uid == uint32(os.Geteuid()) }

// apply makes a command run as the owner, in a process group of its own: Ctrl-C is for the instance, which stops
// Postgres last.
func (o owner) apply(command *exec.Cmd) {
	command.Dir = "/"
	command.Env = ownEnviron()
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if o.other {
		command.SysProcAttr.Credential = &syscall.Credential{Uid: o.uid, Gid: o.gid}
	}
}

// ownEnviron is our environment without what it says of another Postgres (PGPORT, PGOPTIONS, …).
func ownEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(one string) bool { return strings.HasPrefix(one, "PG") })
}

// reaches says whether the owner can get into a directory: every directory above has to let it pass.
func (o owner) reaches(dir string) bool {
	if !o.other {
		return true
	}
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		pass := os.FileMode(0o001)
		switch {
		case ok && stat.Uid == o.uid:
			pass = 0o100
		case ok && stat.Gid == o.gid:
			pass = 0o010
		}
		if info.Mode().Perm()&pass == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
		dir = filepath.Dir(dir)
	}
}
