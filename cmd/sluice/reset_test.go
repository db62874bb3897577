package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReset empties ./data for a yes alone, and not while an instance runs on it.
func TestReset(t *testing.T) {
	dir := shortDir(t)
	text, err := os.ReadFile("../../scripts/reset.sh")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "scripts", "reset.sh")
	if err := os.Mkdir(filepath.Dir(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, text, 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	// Where the files of Postgres may be if Sluice was started as root, beside those of another directory.
	digest := sha256.Sum256([]byte(data))
	elsewhere := filepath.Join(dir, "elsewhere", hex.EncodeToString(digest[:8]))
	other := filepath.Join(dir, "elsewhere", "0123456789abcdef")
	for _, one := range []string{elsewhere, other} {
		if err := os.MkdirAll(filepath.Join(one, "postgres"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	there := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	reset := func(answer string) (string, int) {
		command := exec.Command(script)
		command.Dir, command.Stdin = os.TempDir(), strings.NewReader(answer)
		command.Env = append(os.Environ(), "SLUICE_ELSEWHERE="+filepath.Join(dir, "elsewhere"))
		out, notes, status := outcome(t, command)
		return out + notes, status
	}
	if said, status := reset("y\n"); status != 0 || !strings.Contains(said, "There is no ./data") {
		t.Errorf("without data: status %d: %s", status, said)
	}
	p := serve(t, "--data="+data, "--jwt-secret=")
	if said, status := reset("y\n"); status != 1 || !strings.Contains(said, "An instance runs") || !there(filepath.Join(data, "jwt.secret")) {
		t.Fatalf("while an instance runs: status %d: %s", status, said)
	}
	p.mustPublish(tokenOf(t, data), event("", ""))
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	for _, answer := range []string{"n\n", "\n", "", "yesterday\n"} {
		if said, status := reset(answer); status != 1 || !strings.Contains(said, "Remove everything in "+data) || !there(filepath.Join(data, "jwt.secret")) {
			t.Fatalf("answered %q: status %d: %s", answer, status, said)
		}
	}
	if !there(elsewhere) {
		t.Fatal("a no has removed what is elsewhere")
	}
	if said, status := reset("y\n"); status != 0 || there(data) {
		t.Fatalf("answered y: status %d: %s", status, said)
	}
	if there(elsewhere) == (os.Geteuid() == 0) || !there(other) {
		t.Errorf("elsewhere: ours is there: %v; another's: %v", there(elsewhere), there(other))
	}
}

// tokenOf asks `sluice token` for one of an ADMIN who may publish.
func tokenOf(t *testing.T, data string) string {
	t.Helper()
	out, notes, status := outcome(t, sluice("token", "--data="+data, "--user=7", "--role=ADMIN", "--scope=publish"))
	if status != 0 {
		t.Fatal(notes)
	}
	return strings.TrimSpace(out)
}
