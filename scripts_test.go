package sluice_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// machine is a pretended one: a project directory with our Makefile and scripts, and a PATH on which there is nothing
// but what scripts need of a shell, and stubs that write down how they were called.
type machine struct {
	t        *testing.T
	dir, bin string
	env      []string
}

// stubs are programs as scripts see them; each tells $CALLS of itself first.
var stubs = map[string]string{
	"go": `[ "$*" = "env GOVERSION" ] && { echo "$GO_SAYS"; exit; }
		while [ $# -gt 1 ]; do
			[ "$1" != -o ] || { printf '#!/bin/sh\necho "sluice $*, SLUICE_LISTEN=$SLUICE_LISTEN"\n' >"$2"; chmod +x "$2"; }
			shift
		done`,
	"id": `echo "$ID_SAYS"`,
	"sudo": `[ "$1" != -n ] || shift
		exec "$@"`,
	"apt-get": `cat "$SLUICE_PG_CONFIG/createcluster.conf" >>"$CALLS" 2>/dev/null
		cat "$SLUICE_SBIN/policy-rc.d" >>"$CALLS" 2>/dev/null; :`,
	"tesseract": ``, "pdfinfo": ``, "pdftotext": ``, "pdftoppm": ``,
	"initdb": ``, "gcc": ``, "pgbouncer": ``, "nginx": ``, "haproxy": ``, "update-rc.d": ``,
	"curl": ``, "chromium": ``, "node": `echo "$NODE_SAYS"`,
	"npm": `[ "$1" != ci ] || { rm -rf node_modules; mkdir node_modules; exit; }
		mkdir -p node_modules/.bin
		printf '#!/bin/sh\n' >node_modules/.bin/node
		chmod +x node_modules/.bin/node`,
}

// clients are what is on every machine that tests but those of TestInstallClients.
var clients = []string{"curl", "chromium", "node", "npm"}

// documents are what documents are read with; they are on every machine but those of TestInstallReaders.
var documents = []string{"tesseract", "pdfinfo", "pdftotext", "pdftoppm"}

// newMachine has the stubs named, Go 1.26, and an ordinary user, unless the environment is told otherwise.
func newMachine(t *testing.T, names ...string) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, dir: dir, bin: filepath.Join(dir, "path")}
	for _, one := range []string{"path", "scripts", "bin", "places", "config", "sbin", "clients"} {
		if err := os.Mkdir(filepath.Join(dir, one), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"Makefile", "scripts/install.sh", "scripts/reset.sh", "clients/package-lock.json"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m.write(name, string(text))
	}
	for _, name := range []string{"sh", "sed", "ls", "tee", "rm", "mkdir", "env", "cat", "chmod", "dirname", "make", "awk", "cmp", "cp"} {
		real, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, filepath.Join(m.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		m.write("path/"+name, "#!/bin/sh\necho \""+name+" $*\" >>\"$CALLS\"\n"+stubs[name]+"\n")
	}
	m.env = []string{
		"PATH=" + m.bin, "CALLS=" + filepath.Join(dir, "calls"), "GO_SAYS=go1.26.3", "ID_SAYS=1000", "NODE_SAYS=v20.0.0",
		"SLUICE_PG_PLACES=" + filepath.Join(dir, "places"), "SLUICE_PG_CONFIG=" + filepath.Join(dir, "config"),
		"SLUICE_SBIN=" + filepath.Join(dir, "sbin"),
	}
	return m
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// run executes a program of the machine and returns what it printed, the calls of the stubs and the exit status.
func (m *machine) run(args ...string) (printed, calls string, status int) {
	m.t.Helper()
	program := args[0]
	if !strings.Contains(program, "/") {
		program = filepath.Join(m.bin, program)
	}
	command := exec.Command(program, args[1:]...)
	command.Dir, command.Env = m.dir, m.env
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	var ended *exec.ExitError
	if err := command.Run(); err != nil && !errors.As(err, &ended) {
		m.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(m.dir, "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	return out.String(), string(text), command.ProcessState.ExitCode()
}

// TestInstall tries machines on which this and that is missing.
func TestInstall(t *testing.T) {
	const (
		download = "https://go.dev/dl/"
		modules  = "go mod download"
		quiet    = "create_main_cluster = false"
		postgres = "apt-get install -y -qq --no-install-recommends postgresql"
	)
	for _, c := range []struct {
		name   string
		stubs  string
		env    string
		flag   string
		kept   string // createcluster.conf as it is already
		status int
		says   []string
		calls  []string // in this order
		spares []string // what is neither said nor called
	}{
		{name: "nothing missing", stubs: "go id sudo apt-get initdb", calls: []string{modules}, spares: []string{"sudo", "apt-get", "Install"}},
		{name: "nothing missing to test", stubs: "go id sudo apt-get initdb gcc pgbouncer nginx haproxy", flag: "--test", calls: []string{modules}, spares: []string{"sudo", "apt-get"}},
		{name: "no go", stubs: "id sudo apt-get", status: 1, says: []string{"not installed", download}, spares: []string{"sudo", "apt-get"}},
		{name: "old go", stubs: "go id sudo apt-get", env: "GO_SAYS=go1.25.9", status: 1, says: []string{"Go 1.25.9 is too old", "1.26", download}, spares: []string{"apt-get"}},
		{name: "very old go", stubs: "go initdb", env: "GO_SAYS=", status: 1, says: []string{"too old", download}, spares: []string{modules}},
		{name: "newer go", stubs: "go initdb", env: "GO_SAYS=go1.30rc1", calls: []string{modules}},
		{name: "go of the next age", stubs: "go initdb", env: "GO_SAYS=go2.0", calls: []string{modules}},
		{name: "unreleased go", stubs: "go initdb", env: "GO_SAYS=devel go1.28-abcdef0 Tue", calls: []string{modules}, spares: []string{"integer"}},
		{name: "root", stubs: "go id apt-get sudo", env: "ID_SAYS=0", says: []string{"Installing postgresql"}, calls: []string{"apt-get update", quiet, postgres, quiet, modules}, spares: []string{"sudo"}},
		{name: "sudo", stubs: "go id apt-get sudo", calls: []string{"sudo apt-get update", "apt-get update", quiet, "sudo env DEBIAN_FRONTEND=noninteractive apt-get install", postgres, modules}},
		{name: "neither", stubs: "go id apt-get", status: 1, says: []string{quiet, "apt-get update && apt-get install -y --no-install-recommends postgresql"}, spares: []string{"apt-get update -qq", modules}},
		{name: "neither, kept as it is", stubs: "go id apt-get", kept: "mine", status: 1, says: []string{"Run as root:  apt-get update"}, spares: []string{quiet}},
		{name: "kept as it is", stubs: "go id apt-get", env: "ID_SAYS=0", kept: "mine", calls: []string{"mine", postgres, "mine"}, spares: []string{quiet}},
		{name: "a compiler", stubs: "go id apt-get initdb pgbouncer nginx haproxy", env: "ID_SAYS=0", flag: "--test", says: []string{"Installing gcc libc6-dev"}, calls: []string{"--no-install-recommends gcc libc6-dev", modules}, spares: []string{quiet, "postgresql", "exit 101", "update-rc.d"}},
		{name: "a pooler", stubs: "go id apt-get initdb gcc nginx haproxy update-rc.d", env: "ID_SAYS=0", flag: "--test", says: []string{"Installing pgbouncer"}, calls: []string{"exit 101", "--no-install-recommends pgbouncer", "exit 101", "update-rc.d pgbouncer disable", modules}, spares: []string{quiet}},
		{name: "proxies", stubs: "go id apt-get initdb gcc pgbouncer update-rc.d", env: "ID_SAYS=0", flag: "--test", says: []string{"Installing nginx haproxy"}, calls: []string{"exit 101", "--no-install-recommends nginx haproxy", "exit 101", "update-rc.d nginx disable", "update-rc.d haproxy disable", modules}, spares: []string{quiet}},
		{name: "a pooler, with sudo", stubs: "go id sudo apt-get initdb gcc nginx haproxy update-rc.d", flag: "--test", calls: []string{"sudo tee", "sudo update-rc.d pgbouncer disable", "update-rc.d", modules, "sudo rm -f"}},
		{name: "a pooler, by hand", stubs: "go id apt-get initdb gcc nginx haproxy", flag: "--test", status: 1, says: []string{"apt-get install -y --no-install-recommends pgbouncer && for one in pgbouncer; do service $one stop; update-rc.d $one disable; done"}, spares: []string{modules}},
		{name: "no pooler to run", stubs: "go id sudo apt-get initdb", calls: []string{modules}, spares: []string{"pgbouncer", "nginx", "haproxy"}},
		{name: "no apt-get", stubs: "go id sudo", status: 1, says: []string{"Missing: postgresql", "initdb", "package manager"}, spares: []string{modules, "sudo"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, slices.Concat(strings.Fields(c.stubs), clients, documents)...)
			if c.env != "" {
				m.env = append(m.env, c.env)
			}
			if c.kept != "" {
				m.write("config/createcluster.conf", c.kept+"\n")
			}
			printed, calls, status := m.run(append([]string{filepath.Join(m.dir, "scripts/install.sh")}, strings.Fields(c.flag)...)...)
			if status != c.status {
				t.Errorf("status %d: %s", status, printed)
			}
			for _, want := range c.says {
				if !strings.Contains(printed, want) {
					t.Errorf("it does not say %q: %s", want, printed)
				}
			}
			if _, err := os.Stat(filepath.Join(m.dir, "sbin/policy-rc.d")); err == nil {
				t.Error("services of this machine may not start any more")
			}
			expectCalls(t, calls, c.calls)
			for _, never := range c.spares {
				if strings.Contains(printed+calls, never) {
					t.Errorf("%q must not be:\n%s%s", never, printed, calls)
				}
			}
		})
	}
}

// TestInstallClients installs what tests read with: from Debian what is missing, from npm what the lock file says, once.
func TestInstallClients(t *testing.T) {
	const ci, newer = "npm ci ", "npm install --no-save --no-audit --no-fund --loglevel=error node@20."
	base := slices.Concat([]string{"go", "id", "apt-get", "initdb", "gcc", "pgbouncer", "nginx", "haproxy"}, documents)
	for _, c := range []struct {
		name   string
		has    []string
		env    string
		flag   string
		before func(m *machine)
		calls  []string // in this order
		spares []string
	}{
		{name: "nothing but npm's", has: clients, flag: "--test", calls: []string{"go mod download", ci}, spares: []string{"apt-get", newer}},
		{name: "once", has: clients, flag: "--test", before: (*machine).installed, spares: []string{ci, newer}},
		{name: "another lock file", has: clients, flag: "--test", calls: []string{ci}, before: func(m *machine) {
			m.installed()
			m.write("clients/package-lock.json", "{}")
		}},
		{name: "old node", has: clients, env: "NODE_SAYS=v18.20.4", flag: "--test", calls: []string{ci, newer}, spares: []string{"apt-get"}},
		{name: "old node, once", has: clients, env: "NODE_SAYS=v18.20.4", flag: "--test", before: (*machine).installed, spares: []string{ci, newer}},
		{name: "node becomes old", has: clients, env: "NODE_SAYS=v18.20.4", flag: "--test", calls: []string{newer}, spares: []string{ci}, before: func(m *machine) {
			m.env = append(m.env, "NODE_SAYS=v22.1.0")
			m.installed()
			m.env = append(m.env, "NODE_SAYS=v18.20.4")
		}},
		{name: "to run", calls: []string{"go mod download"}, spares: []string{"apt-get", "npm", "node"}},
		{name: "a browser and curl", has: []string{"node", "npm"}, flag: "--test", calls: []string{"--no-install-recommends curl chromium", ci}, spares: []string{"nodejs"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, slices.Concat(base, c.has)...)
			m.env = append(m.env, "ID_SAYS=0", c.env)
			if c.before != nil {
				c.before(m)
			}
			printed, calls, status := m.run(append([]string{filepath.Join(m.dir, "scripts/install.sh")}, strings.Fields(c.flag)...)...)
			if status != 0 {
				t.Errorf("status %d: %s", status, printed)
			}
			expectCalls(t, calls, c.calls)
			for _, never := range c.spares {
				if strings.Contains(calls, never) {
					t.Errorf("%q must not be: %s", never, calls)
				}
			}
		})
	}
	m := newMachine(t, base...)
	m.env = append(m.env, "ID_SAYS=0")
	if printed, calls, _ := m.run(filepath.Join(m.dir, "scripts/install.sh"), "--test"); !strings.Contains(calls, "--no-install-recommends nodejs npm curl chromium") {
		t.Errorf("nothing is there: %s%s", printed, calls)
	}
}

// expectCalls checks that what is wanted was called in that order, whatever else was.
func expectCalls(t *testing.T, calls string, wanted []string) {
	t.Helper()
	rest := calls
	for _, want := range wanted {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Errorf("%q is not called, or not in this order: %s", want, calls)
			return
		}
		rest = after
	}
}

// installed lets the script have run once, and forgets the calls.
func (m *machine) installed() {
	m.t.Helper()
	if printed, _, status := m.run(filepath.Join(m.dir, "scripts/install.sh"), "--test"); status != 0 {
		m.t.Fatalf("status %d: %s", status, printed)
	}
	if err := os.Remove(filepath.Join(m.dir, "calls")); err != nil {
		m.t.Fatal(err)
	}
}

// TestLockFile names versions and digests, and leaves it to whoever installs from which registry.
func TestLockFile(t *testing.T) {
	text, err := os.ReadFile("clients/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(`"integrity"`)) || bytes.Contains(text, []byte(`"resolved"`)) {
		t.Error("make it again where clients/.npmrc is: rm clients/package-lock.json && npm install --prefix clients")
	}
}

// TestInstallReaders needs what documents are read with for tests, and tries to install it to run, but runs without.
func TestInstallReaders(t *testing.T) {
	const (
		tesseract = " tesseract-ocr tesseract-ocr-eng tesseract-ocr-osd"
		packages  = tesseract + " poppler-utils"
		install   = "apt-get install -y -qq --no-install-recommends"
		modules   = "go mod download"
		warning   = "Documents are kept but not read."
	)
	base := slices.Concat([]string{"go", "id", "initdb", "gcc", "pgbouncer", "nginx", "haproxy"}, clients)
	for _, c := range []struct {
		name   string
		has    []string
		env    string
		flag   string
		fails  bool // apt-get
		status int
		says   []string
		calls  []string // in this order
		spares []string
	}{
		{name: "to test", has: []string{"apt-get"}, flag: "--test", calls: []string{install + packages, modules}, spares: []string{warning}},
		{name: "to test, Poppler", has: []string{"apt-get", "tesseract", "pdfinfo"}, flag: "--test", calls: []string{install + " poppler-utils", modules}, spares: []string{"tesseract-ocr"}},
		{name: "to test, not to be had", has: []string{"apt-get"}, flag: "--test", fails: true, status: 100, spares: []string{modules}},
		{name: "to test, no apt-get", flag: "--test", status: 1, says: []string{"Missing:" + packages, "Tesseract"}, spares: []string{modules}},
		{name: "to run", has: []string{"apt-get"}, says: []string{"Installing" + packages}, calls: []string{"apt-get update", install + packages, modules}, spares: []string{warning}},
		{name: "to run, Tesseract", has: []string{"apt-get", "pdfinfo", "pdftotext", "pdftoppm"}, calls: []string{install + tesseract, modules}, spares: []string{"poppler"}},
		{name: "to run, by sudo", has: []string{"apt-get", "sudo"}, env: "ID_SAYS=1000", calls: []string{"sudo -n apt-get update", "sudo -n env", install + packages, modules}},
		{name: "to run, not to be had", has: []string{"apt-get"}, fails: true, says: []string{warning + " Missing:" + packages}, calls: []string{modules}},
		{name: "to run, neither root nor sudo", has: []string{"apt-get"}, env: "ID_SAYS=1000", says: []string{warning}, calls: []string{modules}, spares: []string{"apt-get"}},
		{name: "to run, no apt-get", says: []string{warning}, calls: []string{modules}, spares: []string{"not found"}},
		{name: "to run, all there", has: append(documents, "apt-get"), calls: []string{modules}, spares: []string{"apt-get", warning}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, slices.Concat(base, c.has)...)
			m.env = append(m.env, "ID_SAYS=0", c.env)
			if c.fails {
				m.write("path/apt-get", "#!/bin/sh\nexit 100\n")
			}
			printed, calls, status := m.run(append([]string{filepath.Join(m.dir, "scripts/install.sh")}, strings.Fields(c.flag)...)...)
			if status != c.status {
				t.Errorf("status %d: %s", status, printed)
			}
			for _, want := range c.says {
				if !strings.Contains(printed, want) {
					t.Errorf("it does not say %q: %s", want, printed)
				}
			}
			expectCalls(t, calls, c.calls)
			for _, never := range c.spares {
				if strings.Contains(printed+calls, never) {
					t.Errorf("%q must not be:\n%s%s", never, printed, calls)
				}
			}
		})
	}
}

// TestInstallFindsPostgres looks where Debian puts it, which is on nobody's PATH.
func TestInstallFindsPostgres(t *testing.T) {
	m := newMachine(t, append(documents, "go", "apt-get", "sudo", "id")...)
	if err := os.MkdirAll(filepath.Join(m.dir, "places/17/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.write("places/17/bin/initdb", "")
	if printed, calls, status := m.run(filepath.Join(m.dir, "scripts/install.sh")); status != 0 || strings.Contains(calls, "apt-get") {
		t.Errorf("status %d: %s%s", status, printed, calls)
	}
}

// TestMakeHelp lists every target with what it does, and is what make alone does.
func TestMakeHelp(t *testing.T) {
	m := newMachine(t)
	text, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(string(text), -1)
	if len(targets) < 8 {
		t.Fatalf("targets: %v", targets)
	}
	printed, _, status := m.run("make")
	again, _, _ := m.run("make", "help")
	if status != 0 || printed != again {
		t.Errorf("status %d: make prints %q, make help %q", status, printed, again)
	}
	_, phony, _ := strings.Cut(string(text), ".PHONY: ")
	phony, _, _ = strings.Cut(phony, "\n")
	for _, target := range targets {
		if !regexp.MustCompile(`(?m)^  make ` + target[1] + ` +[A-Z].*\.$`).MatchString(printed) {
			t.Errorf("make %s is not explained: %s", target[1], printed)
		}
		if !strings.Contains(" "+phony+" ", " "+target[1]+" ") {
			t.Errorf("%s is not .PHONY", target[1])
		}
	}
}

// TestMakeRun needs nothing but Go, make and a shell, Node least of all, and hands the environment's settings on.
func TestMakeRun(t *testing.T) {
	m := newMachine(t, "go", "initdb")
	m.env = append(m.env, "SLUICE_LISTEN=127.0.0.1:8099")
	printed, calls, status := m.run("make", "run")
	if status != 0 || !strings.HasSuffix(printed, "sluice serve --dev, SLUICE_LISTEN=127.0.0.1:8099\n") {
		t.Errorf("status %d: %s", status, printed)
	}
	if got := regexp.MustCompile(`(?m)^go (\w+ ?\w*)`).FindAllString(calls, -1); strings.Join(got, ", ") != "go env GOVERSION, go mod download, go build " {
		t.Errorf("%q: %s", got, calls)
	}
}

// TestMakeTest is what CI runs, and nothing else is.
func TestMakeTest(t *testing.T) {
	m := newMachine(t)
	printed, _, status := m.run("make", "-n", "test")
	for _, want := range []string{"scripts/install.sh --test", "gofumpt -l", "go vet ./...", "staticcheck ./...", "go test -race"} {
		if !strings.Contains(printed, want) {
			t.Errorf("status %d, make test does not run %q: %s", status, want, printed)
		}
	}
	text, err := os.ReadFile(".ci/run")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(text), "exec make test\n") || strings.Count(string(text), "\n") > 4 {
		t.Errorf(".ci/run does something else: %s", text)
	}
}
