package localpg_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq"

	"sluice/store/localpg"
)

// asParent makes the test binary a process that owns a cluster, for tests that kill it.
const asParent = "LOCALPG_TEST_PARENT"

func TestMain(m *testing.M) {
	dir := os.Getenv(asParent)
	if dir == "" {
		os.Exit(m.Run())
	}
	cluster, err := localpg.Start(context.Background(), localpg.Options{Dir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started", cluster.PID())
	select {} // until it is killed
}

const patience = 30 * time.Second

// place gives a data directory that every user can reach.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "localpg")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, dir string) *localpg.Cluster {
	t.Helper()
	cluster, err := localpg.Start(context.Background(), localpg.Options{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, cluster) })
	return cluster
}

func stop(t *testing.T, cluster *localpg.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := cluster.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func execute(t *testing.T, cluster *localpg.Cluster, statement string) error {
	t.Helper()
	db, err := sql.Open("postgres", cluster.URL("sluice"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.Exec(statement)
	return err
}

// rows counts what is in the table kept, waiting for a Postgres that is on its way back.
func rows(t *testing.T, cluster *localpg.Cluster) (n int) {
	t.Helper()
	db, err := sql.Open("postgres", cluster.URL("sluice"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	deadline := time.After(patience)
	for {
		if err = db.QueryRow(`select count(*) from kept`).Scan(&n); err == nil {
			return n
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(rest, "Z")
}

func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	deadline := time.After(patience)
	for alive(pid) {
		select {
		case <-deadline:
			t.Fatalf("process %d still runs", pid)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestRestartKeepsRows(t *testing.T) {
	dir := place(t)
	cluster := start(t, dir)
	if err := execute(t, cluster, `create table kept (n int); insert into kept values (1), (2)`); err != nil {
		t.Fatal(err)
	}
	pid := cluster.PID()
	stop(t, cluster)
	if alive(pid) {
		t.Fatal("Postgres runs on after Stop")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "run", ".s.PGSQL*")); len(left) > 0 {
		t.Fatalf("Stop leaves %v", left)
	}
	if n := rows(t, start(t, dir)); n != 2 {
		t.Fatalf("%d rows", n)
	}
}

func TestDurableByDefault(t *testing.T) {
	cluster := start(t, place(t))
	db, err := sql.Open("postgres", cluster.URL("sluice"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for name, want := range map[string]string{"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on", "listen_addresses": ""} {
		var got string
		if err := db.QueryRow(`select current_setting($1)`, name).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q (%v), not %q", name, got, err, want)
		}
	}
}

func TestOneInstanceOnly(t *testing.T) {
	dir := place(t)
	start(t, dir)
	_, err := localpg.Start(context.Background(), localpg.Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "in use by another instance") {
		t.Fatal(err)
	}
}

func TestChildKilledComesBack(t *testing.T) {
	cluster := start(t, place(t))
	if err := execute(t, cluster, `create table kept (n int); insert into kept values (1)`); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := syscall.Kill(cluster.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if n := rows(t, cluster); n != 1 {
			t.Fatalf("%d rows", n)
		}
	}
}

// TestParentKilled kills the owner of a cluster. Its Postgres ends, and the next owner has all rows.
func TestParentKilled(t *testing.T) {
	dir := place(t)
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), asParent+"="+dir)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	var pid int
	if _, scan := fmt.Sscanf(line, "started %d", &pid); err != nil || scan != nil {
		t.Fatalf("%q %v", line, err)
	}
	_ = parent.Process.Kill()
	_ = parent.Wait()
	awaitEnd(t, pid)
	cluster := start(t, dir)
	if err := execute(t, cluster, `create table kept (n int)`); err != nil {
		t.Fatal(err)
	}
}

// TestOrphanReplaced starts beside a Postgres that outlived its owner: nobody ended it.
func TestOrphanReplaced(t *testing.T) {
	dir := place(t)
	cluster := start(t, dir)
	if err := execute(t, cluster, `create table kept (n int); insert into kept values (1)`); err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cluster.PID()))
	if err != nil {
		t.Fatal(err)
	}
	stop(t, cluster)
	arguments := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	orphan := exec.Command(arguments[0], arguments[1:]...)
	orphan.Dir = "/"
	info, err := os.Stat(filepath.Join(dir, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	orphan.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	if os.Geteuid() != 0 {
		orphan.SysProcAttr = nil
	}
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	rows(t, cluster) // it answers
	next := start(t, dir)
	if alive(orphan.Process.Pid) {
		t.Error("the orphan still runs")
	}
	_ = orphan.Wait()
	if n := rows(t, next); n != 1 || next.PID() == orphan.Process.Pid {
		t.Fatalf("%d rows, process %d", n, next.PID())
	}
}

// TestZombie leaves the number of a dead Postgres that nobody has reaped in its lock files.
func TestZombie(t *testing.T) {
	dir := place(t)
	cluster := start(t, dir)
	stop(t, cluster)
	dead := exec.Command("/bin/true")
	if err := dead.Start(); err != nil {
		t.Fatal(err)
	}
	defer dead.Wait()
	awaitEnd(t, dead.Process.Pid)
	lock := fmt.Sprintf("%d\n%s\n", dead.Process.Pid, filepath.Join(dir, "postgres"))
	for _, name := range []string{"postgres/postmaster.pid", "run/.s.PGSQL.5432.lock"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(lock), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := execute(t, start(t, dir), `select 1`); err != nil {
		t.Fatal(err)
	}
}

func TestLongPath(t *testing.T) {
	dir := filepath.Join(place(t), strings.Repeat("a-long-name/", 12))
	if err := execute(t, start(t, dir), `select 1`); err != nil {
		t.Fatal(err)
	}
}

// TestUnreachable puts the data where the user that Postgres runs as cannot get, as root's home is.
func TestUnreachable(t *testing.T) {
	dir := place(t)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cluster := start(t, filepath.Join(dir, "data"))
	if err := execute(t, cluster, `select 1`); err != nil {
		t.Fatal(err)
	}
	elsewhere := !strings.Contains(cluster.URL("sluice"), dir)
	if elsewhere != (os.Geteuid() == 0) {
		t.Fatalf("the cluster is at %s", cluster.URL("sluice"))
	}
	if elsewhere {
		_, path, _ := strings.Cut(cluster.URL("sluice"), "host='")
		path, _, _ = strings.Cut(path, "'")
		t.Cleanup(func() {
			stop(t, cluster)
			os.RemoveAll(filepath.Dir(path))
		})
	}
}
