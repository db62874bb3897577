package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"sluice/store/localpg"
	"sluice/store/localpg/pgtest"
)

// changes keeps what a store tells of its epoch.
type changes struct {
	mu   sync.Mutex
	list []string // guarded by mu
}

func (c *changes) see(epoch string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, epoch)
}

func (c *changes) seen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list)
}

// TestEpochStays connects again and again to the same database, by new stores and after the server has ended all sessions.
func TestEpochStays(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	var told changes
	s, db := openWith(t, Options{URL: url, Migrate: true, EpochChanged: told.see}), connect(t, url)
	epoch := s.Epoch()
	if _, err := ParseCursor(epoch + "-0"); err != nil || len(epoch) != 10 {
		t.Errorf("the epoch is %q", epoch)
	}
	for range 3 {
		if other := open(t, url); other.Epoch() != epoch {
			t.Errorf("another instance has the epoch %q, not %q", other.Epoch(), epoch)
		}
		endSessions(t, db)
		wait(t, "it answers again", func() bool {
			_, err := s.Page(t.Context(), "org", 0, time.Time{}, 1)
			return err == nil
		})
	}
	if got := told.seen(); !slices.Equal(got, []string{epoch}) {
		t.Errorf("the epochs told are %q", got)
	}
}

// endSessions ends every session of the database but our own.
func endSessions(t *testing.T, db *sqlx.DB) {
	t.Helper()
	execute(t, db, `select pg_terminate_backend(pid) from pg_stat_activity
		where datname = current_database() and pid <> pg_backend_pid()`)
}

// TestOneBeginsTheEpoch plays another instance that writes an epoch, the first one or the next after a promotion, while a
// store is about to do the same: the store takes the one that it finds.
func TestOneBeginsTheEpoch(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]string{
		"first": `delete from sluice.epoch`,
		"next":  `update sluice.epoch set timeline = '00000000'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Database(t)
			open(t, url).Close()
			db := connect(t, url)
			here := ask[string](t, db, `select timeline from sluice.epoch`)
			execute(t, db, `create table kept as select * from sluice.epoch`)
			execute(t, db, before)
			tx := db.MustBegin()
			defer tx.Rollback()
			execute(t, tx, `insert into sluice.epoch (epoch, system_id, timeline, database_oid)
				select 'theother', system_id, $1, database_oid from kept
				on conflict (singleton) do update set epoch = excluded.epoch, timeline = excluded.timeline`, here)
			opened := make(chan *Store, 1)
			go func() {
				defer close(opened)
				s, err := Open(t.Context(), Options{URL: url})
				if err != nil {
					t.Error(err)
					return
				}
				opened <- s
			}()
			waitLocked(t, db)
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			s := <-opened
			if s == nil {
				return
			}
			defer s.Close()
			if kept := ask[string](t, db, `select epoch from sluice.epoch`); s.Epoch() != "theother" || kept != "theother" {
				t.Errorf("the store has the epoch %q, the database %q", s.Epoch(), kept)
			}
		})
	}
}

// TestReplacedByACopy puts a copy of the database, as of a backup, in its place while a store runs upon it. The cluster is
// the same, the epoch in it too: only the number of the database tells.
func TestReplacedByACopy(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	config, err := pq.NewConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	name := config.Database
	admin := connect(t, pgtest.Cluster(t).URL("postgres"))
	var told changes
	s := openWith(t, Options{URL: url, Migrate: true, KeepEpoch: true, EpochChanged: told.see})
	add(t, s, drafts("org", "x", 3)...)
	epoch := s.Epoch()
	t.Cleanup(func() { execute(t, admin, `drop database if exists `+name+`_old with (force)`) })

	execute(t, admin, `alter database `+name+` allow_connections false`)
	execute(t, admin, `select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`, name)
	wait(t, "the sessions end", func() bool {
		return ask[int](t, admin, `select count(*) from pg_stat_activity where datname = $1`, name) == 0
	})
	execute(t, admin, `alter database `+name+` rename to `+name+`_old`)
	execute(t, admin, `create database `+name+` template `+name+`_old`)

	var answer []Answer
	again := draft("org", "x3")
	wait(t, "the store goes on upon the copy", func() bool {
		answer, err = s.Append(t.Context(), itemsOf([]Draft{again}))
		return err == nil
	})
	next := s.Epoch()
	if next == epoch || answer[0].Appended[0].Cursor != (Cursor{next, 3}) || !answer[0].Appended[0].Duplicate {
		t.Errorf("upon the copy: epoch %q after %q, %+v", next, epoch, answer)
	}
	if got := told.seen(); !slices.Equal(got, []string{epoch, next}) {
		t.Errorf("the epochs told are %q", got)
	}
	if other := open(t, url); other.Epoch() != next {
		t.Errorf("another instance begins one more epoch: %q, not %q", other.Epoch(), next)
	}
}

// TestReplacedByAnEmptyOne drops the database under a running store and makes a new one of its name.
func TestReplacedByAnEmptyOne(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	config, err := pq.NewConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	admin := connect(t, pgtest.Cluster(t).URL("postgres"))
	s := open(t, url)
	add(t, s, drafts("org", "x", 3)...)
	epoch := s.Epoch()
	execute(t, admin, `drop database `+config.Database+` with (force)`)
	execute(t, admin, `create database `+config.Database+` template template0`)
	wait(t, "the store goes on", func() bool {
		_, err := s.Page(t.Context(), "org", 0, time.Time{}, 1)
		return err == nil
	})
	if got := page(t, s, "org", 0); got.Epoch == epoch || got.Epoch != s.Epoch() || got.Head != 0 {
		t.Errorf("upon an empty database: %+v after epoch %q", got, epoch)
	}
	if err := s.MakePartitions(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, "appending goes on", func() bool {
		answer, err := s.Append(t.Context(), itemsOf([]Draft{draft("org", "y")}))
		return err == nil && answer[0].Appended[0].Cursor.Seq == 1
	})
}

// TestIdentity writes another identity beside the epoch, as if the rows had been made elsewhere, and looks at it both ways: by
// a new connection, and by the poll over one that was there before. Only a timeline alone may keep the epoch.
func TestIdentity(t *testing.T) {
	t.Parallel()
	for _, column := range []string{"system_id", "timeline", "database_oid"} {
		for _, keep := range []bool{false, true} {
			for _, poll := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/keep=%t/poll=%t", column, keep, poll), func(t *testing.T) {
					t.Parallel()
					url := pgtest.Database(t)
					var told changes
					s, db := openWith(t, Options{URL: url, Migrate: true, KeepEpoch: keep, EpochChanged: told.see}), connect(t, url)
					epoch := s.Epoch()
					const identity = `select system_id || ' ' || timeline || ' ' || database_oid from sluice.epoch`
					before := ask[string](t, db, identity)
					execute(t, db, `update sluice.epoch set `+column+` = '00000001' || `+column)
					if poll {
						heads, err := s.Heads(t.Context(), []string{"org"})
						if err != nil || heads.Epoch != s.Epoch() {
							t.Errorf("%+v, the epoch is %q (%v)", heads, s.Epoch(), err)
						}
					} else {
						s = openWith(t, Options{URL: url, Migrate: true, KeepEpoch: keep, EpochChanged: told.see})
					}
					if kept := s.Epoch() == epoch; kept != (keep && column == "timeline") {
						t.Errorf("another %s: the epoch is %q after %q", column, s.Epoch(), epoch)
					}
					if after := ask[string](t, db, identity); after != before {
						t.Errorf("the identity kept is %s, not %s", after, before)
					}
					if got := told.seen(); got[len(got)-1] != s.Epoch() || ask[string](t, db, `select epoch from sluice.epoch`) != s.Epoch() {
						t.Errorf("told were %q, the epoch is %q", got, s.Epoch())
					}
				})
			}
		}
	}
}

// TestRotate begins new epochs by hand, and only over the one that was meant.
func TestRotate(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	var told changes
	s, other := open(t, url), openWith(t, Options{URL: url, Migrate: true, EpochChanged: told.see})
	polling := open(t, url)
	first := s.Epoch()
	second, err := s.RotateEpoch(t.Context(), "")
	if err != nil || second == first || s.Epoch() != second {
		t.Errorf("%q after %q, the store has %q (%v)", second, first, s.Epoch(), err)
	}
	if got := page(t, other, "org", 0); got.Epoch != second || other.Epoch() != second {
		t.Errorf("another instance reads %q", got.Epoch)
	}
	if heads, err := polling.Heads(t.Context(), nil); err != nil || heads.Epoch != second || polling.Epoch() != second {
		t.Errorf("an instance that only polls has %q and %q (%v)", heads.Epoch, polling.Epoch(), err)
	}
	if stale, err := s.RotateEpoch(t.Context(), first); err != nil || stale != second || s.Epoch() != second {
		t.Errorf("from an epoch that is over: %q (%v)", stale, err)
	}
	// Two that see the same reason begin one epoch together.
	var group sync.WaitGroup
	got := make([]string, 2)
	for i, one := range []*Store{s, other} {
		group.Go(func() {
			var err error
			if got[i], err = one.RotateEpoch(t.Context(), second); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got[0] != got[1] || got[0] == second {
		t.Errorf("two began %q after %q", got, second)
	}
	if heads, err := open(t, url).Heads(t.Context(), nil); err != nil || heads.Epoch != got[0] {
		t.Errorf("a new instance has %q (%v)", heads.Epoch, err)
	}
	if list := told.seen(); !slices.Equal(list, []string{first, second, got[0]}) {
		t.Errorf("the other instance told of %q", list)
	}
}

// TestPromoted restores the rows of one cluster in another, and then turns that into a standby and promotes it.
func TestPromoted(t *testing.T) {
	t.Parallel()
	cluster, dir, stop := privateCluster(t)

	// A dump of another cluster's database brings its epoch along.
	elsewhere := open(t, pgtest.Database(t)).Epoch()
	url := cluster.URL("sluice")
	s := open(t, url)
	execute(t, s.db, `update sluice.epoch set epoch = $1, system_id = '4711'`, elsewhere)
	s.Close()
	s = openWith(t, Options{URL: url, Migrate: true, KeepEpoch: true})
	restored := s.Epoch()
	if restored == elsewhere {
		t.Error("the rows of another cluster keep their epoch")
	}
	add(t, s, drafts("org", "x", 3)...)
	s.Close()
	execute(t, connect(t, cluster.URL("postgres")), `create database second template sluice`)
	second := open(t, cluster.URL("second"))
	secondEpoch := second.Epoch()
	second.Close()

	standby := asStandby(t, cluster, dir, stop)
	wait(t, "the standby answers", func() bool { return standby.Ping() == nil })
	_, err := Open(t.Context(), Options{URL: url})
	if err == nil || !strings.Contains(err.Error(), "standby") && !strings.Contains(err.Error(), "recovery") {
		t.Errorf("a standby was opened: %v", err)
	}
	c, err := (&Store{opts: Options{}, log: slog.New(slog.DiscardHandler)}).connector(url, connectorUse{verify: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Connect(t.Context()); !errors.Is(err, errStandby) {
		t.Errorf("a connection to a standby: %v", err)
	}
	// Until the next checkpoint the control file knows nothing of the new timeline. So there is none for now.
	checkpointer := ask[int](t, standby, `select pid from pg_stat_activity where backend_type = 'checkpointer'`)
	if err := syscall.Kill(checkpointer, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := sync.OnceFunc(func() { _ = syscall.Kill(checkpointer, syscall.SIGCONT) })
	t.Cleanup(goOn)
	if !ask[bool](t, standby, `select pg_promote()`) {
		t.Fatal("the standby is not promoted")
	}

	s = openWith(t, Options{URL: url, Migrate: true, KeepEpoch: true})
	if s.Epoch() != restored {
		t.Errorf("a timeline alone begins the epoch %q after %q although it should be kept", s.Epoch(), restored)
	}
	if got := page(t, s, "org", 0); got.Head != 3 {
		t.Errorf("the promoted log has %+v", got)
	}
	s.Close()
	if s = open(t, url); s.Epoch() != restored {
		t.Errorf("an epoch that was kept begins anew with the next instance: %q after %q", s.Epoch(), restored)
	}
	s.Close()
	if second = open(t, cluster.URL("second")); second.Epoch() == secondEpoch {
		t.Error("a promoted standby has the epoch of its primary")
	}
	second.Close()
	goOn()
}

// privateCluster starts one that a test may stop by what it returns, and that is stopped with the test.
func privateCluster(t *testing.T) (cluster *localpg.Cluster, dir string, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sluicetest")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cluster, err = localpg.Start(t.Context(), localpg.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := cluster.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return cluster, dir, stop
}

// asStandby stops a cluster and starts its files as a standby that follows nobody.
func asStandby(t *testing.T, cluster *localpg.Cluster, dir string, stop func()) *sqlx.DB {
	t.Helper()
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cluster.PID()))
	if err != nil {
		t.Fatal(err)
	}
	stop()
	files := filepath.Join(dir, "postgres")
	if err := os.WriteFile(filepath.Join(files, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(files)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	if os.Geteuid() == 0 {
		if err := os.Chown(filepath.Join(files, "standby.signal"), int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	arguments := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	command := exec.Command(arguments[0], arguments[1:]...)
	command.Dir = "/"
	if os.Geteuid() == 0 {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGINT)
		_ = command.Wait()
	})
	return connect(t, cluster.URL("sluice"))
}
