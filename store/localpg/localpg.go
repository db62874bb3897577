package localpg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startWait   = 60 * time.Second // recovery after a kill may have a lot to read
	socketLimit = 107              // bytes of a Unix socket's path
	socketName  = ".s.PGSQL.5432"
	superuser   = "sluice"
	replaceWait = 30 * time.Second // for a Postgres whose instance was killed
)

// Options say where the cluster lives.
type Options struct {
	Dir      string // the data directory; the cluster is below it
	Log      *slog.Logger
	Settings map[string]string // of Postgres, beyond those of this package
}

// Cluster is a running private Postgres. Should it die it is started again, until Stop.
type Cluster struct {
	log      *slog.Logger
	bin      string
	dir      string // of the cluster
	sockets  string
	owner    owner
	settings map[string]string
	lock     *os.File

	stop     chan struct{} // closed by Stop
	finished chan struct{} // closed when the supervisor has ended
	once     sync.Once

	mu    sync.Mutex
	child *exec.Cmd // guarded by mu
}

// Start makes the cluster at the first time, and starts it. It returns when connections are answered.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	if options.Log == nil {
		options.Log = slog.Default()
	}
	dir, err := filepath.Abs(options.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	c := &Cluster{
		log: options.Log, bin: bin, settings: options.Settings, stop: make(chan struct{}), finished: make(chan struct{}),
	}
	if c.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	if err := c.start(ctx, dir); err != nil {
		c.lock.Close()
		return nil, err
	}
	return c, nil
}

// lockDir keeps the data directory for this process; the kernel frees it however the process ends.
func lockDir(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "sluice.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("the data directory %s is in use by another instance: stop that one, name another directory with --data, or share a database with --database-url", dir)
	}
	return file, nil
}

func (c *Cluster) start(ctx context.Context, dir string) error {
	var err error
	if c.owner, err = childOwner(); err != nil {
		return err
	}
	if c.dir, err = c.home(dir); err != nil {
		return err
	}
	if c.sockets, err = c.socketDir(); err != nil {
		return err
	}
	if err := c.initialize(ctx); err != nil {
		return err
	}
	if err := c.replaceOrphan(ctx); err != nil {
		return err
	}
	started := make(chan error, 1)
	go c.supervise(started)
	select {
	case err = <-started:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		err = c.createDatabase(ctx)
	}
	if err != nil {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = c.Stop(stopping)
	}
	return err
}

// home is where the cluster lives: below the data directory, or, where the user that Postgres runs as cannot get
// there, below /var/lib/sluice by a digest of the path.
func (c *Cluster) home(dir string) (string, error) {
	if c.owner.reaches(dir) {
		return filepath.Join(dir, "postgres"), nil
	}
	elsewhere := elsewhere(dir)
	if err := os.MkdirAll(elsewhere, 0o755); err != nil {
		return "", err
	}
	c.log.Info("the user "+c.owner.name+" cannot reach the data directory, so Postgres keeps its files elsewhere",
		"data", dir, "postgres", elsewhere)
	return filepath.Join(elsewhere, "postgres"), nil
}

// elsewhere is where the cluster of a data directory lives that its user cannot get to.
func elsewhere(dir string) string {
	digest := sha256.Sum256([]byte(dir))
	return filepath.Join("/var/lib/sluice", hex.EncodeToString(digest[:8]))
}

// socketDir is beside the cluster where its path is short enough, else below /tmp by a digest.
func (c *Cluster) socketDir() (string, error) {
	dir := filepath.Join(filepath.Dir(c.dir), "run")
	if len(filepath.Join(dir, socketName)) > socketLimit {
		digest := sha256.Sum256([]byte(c.dir))
		dir = filepath.Join(os.TempDir(), "sluice-"+hex.EncodeToString(digest[:8]))
		if len(filepath.Join(dir, socketName)) > socketLimit {
			dir = filepath.Join("/tmp", filepath.Base(dir))
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// Somebody else's directory of that name would hand our connections to them.
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || ok && !c.owner.trusts(stat.Uid) {
		return "", fmt.Errorf("%s is not ours: remove it", dir)
	}
	return dir, errors.Join(os.Chmod(dir, 0o700), c.owner.own(dir))
}

// initialize makes the cluster once, beside its place, and renames it: if we stop in between, the next start begins
// anew, and never finds half a cluster.
func (c *Cluster) initialize(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(c.dir, "PG_VERSION")); err == nil {
		return nil
	}
	half := c.dir + ".new"
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	if err := os.Mkdir(half, 0o700); err != nil {
		return err
	}
	if err := c.owner.own(half); err != nil {
		return err
	}
	command := exec.CommandContext(ctx, filepath.Join(c.bin, "initdb"), "--pgdata="+half, "--username="+superuser,
		"--encoding=UTF8", "--locale=C", "--data-checksums", "--auth-local=trust", "--auth-host=reject")
	c.owner.apply(command)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return os.Rename(half, c.dir)
}

// URL is how to connect to one of the cluster's databases.
func (c *Cluster) URL(database string) string {
	return fmt.Sprintf("host='%s' port=5432 user=%s dbname='%s' sslmode=disable", c.sockets, superuser, database)
}

// PID is the postmaster's; 0 while there is none.
func (c *Cluster) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.child == nil {
		return 0
	}
	return c.child.Process.Pid
}

// createDatabase makes the database "sluice" unless it is there.
func (c *Cluster) createDatabase(ctx context.Context) error {
	command := exec.CommandContext(ctx, filepath.Join(c.bin, "createdb"), "--host="+c.sockets, "--username="+superuser, "--no-password", superuser)
	command.Env = ownEnviron()
	out, err := command.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "already exists") {
		return fmt.Errorf("createdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// answers says whether connections are taken and a postmaster of this number serves them.
func (c *Cluster) answers(pid int) bool {
	if postmasterPID(c.dir) != pid {
		return false
	}
	text, err := os.ReadFile(filepath.Join(c.dir, "postmaster.pid"))
	if err != nil || !strings.Contains(string(text), "ready") {
		return false
	}
	conn, err := net.DialTimeout("unix", filepath.Join(c.sockets, socketName), time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Stop ends Postgres cleanly: sessions are ended, everything is written. When ctx ends first, it is ended at once, and
// recovers at its next start. It returns when the process is gone.
func (c *Cluster) Stop(ctx context.Context) error {
	c.once.Do(func() { close(c.stop) })
	defer c.lock.Close()
	select {
	case <-c.finished:
		return nil
	case <-ctx.Done():
		c.signal(syscall.SIGQUIT)
		<-c.finished
		return fmt.Errorf("postgres was ended at once: %w", ctx.Err())
	}
}

func (c *Cluster) signal(sig syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.child != nil {
		_ = c.child.Process.Signal(sig)
	}
}
