package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// outcome runs one command line to its end and returns what it wrote and its exit status. One that does not end, such
// as a server that should have refused to start, is killed, and its status is -1.
func outcome(t *testing.T, command *exec.Cmd) (out, notes string, status int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = command.Process.Kill() })
	defer timer.Stop()
	err := command.Wait()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String(), command.ProcessState.ExitCode()
}

// dataDirectory is one as a server leaves it, as far as clients look into it.
func dataDirectory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "jwt.secret"), []byte(testSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestToken reads the claims back: standard output carries the token and nothing else.
func TestToken(t *testing.T) {
	out, notes, status := outcome(t, sluice("token", "--data", dataDirectory(t), "--org", "2", "--user", "9",
		"--role", "MANAGER", "--scope", "publish admin", "--properties", "4,5", "--services", "finance,tasks",
		"--name", "Ada", "--ttl", "2h", "--jwt-issuer", "us", "--jwt-audience", "you"))
	if status != 0 || notes != "" {
		t.Fatalf("status %d: %s", status, notes)
	}
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(strings.TrimSuffix(out, "\n"), claims, func(*jwt.Token) (any, error) {
		return []byte(testSecret), nil
	}, jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
	if err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	for claim, want := range map[string]string{
		"orgId": "2", "sub": "9", "role": "MANAGER", "scope": "publish admin", "displayName": "Ada",
		"iss": "us", "aud": "you",
	} {
		if claims[claim] != want {
			t.Errorf("%s is %v, not %q", claim, claims[claim], want)
		}
	}
	for claim, want := range map[string][]any{"properties": {"4", "5"}, "services": {"finance", "tasks"}} {
		if got, _ := claims[claim].([]any); !slices.Equal(got, want) {
			t.Errorf("%s is %v, not %v", claim, claims[claim], want)
		}
	}
	expires, err := claims.GetExpirationTime()
	if left := time.Until(expires.Time); err != nil || left < 119*time.Minute || left > 2*time.Hour {
		t.Errorf("it holds for %s (%v)", left, err)
	}
}

// TestTokenRefusals says what to do next, and prints no token.
func TestTokenRefusals(t *testing.T) {
	empty := t.TempDir()
	if err := os.WriteFile(filepath.Join(empty, "jwt.secret"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"no secret", []string{"--user", "9", "--data", filepath.Join(empty, "none")}, 1, "make run"},
		{"empty secret", []string{"--user", "9", "--data", empty}, 1, "is empty"},
		{"no time", []string{"--user", "9", "--ttl", "0s", "--jwt-secret", testSecret}, 1, "--ttl"},
		{"too long", []string{"--user", "9", "--ttl", "900000h", "--jwt-secret", testSecret}, 1, "--ttl"},
		{"no user", []string{"--jwt-secret", testSecret}, 2, "--user"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, notes, status := outcome(t, sluice(append([]string{"token"}, c.args...)...))
			if status != c.status || !strings.Contains(notes, c.says) {
				t.Errorf("status %d: %s", status, notes)
			}
			if strings.Contains(out, "eyJ") {
				t.Errorf("a token was printed: %s", out)
			}
		})
	}
}

// TestVersion names the version and Go's.
func TestVersion(t *testing.T) {
	out, _, status := outcome(t, sluice("version"))
	if status != 0 || !strings.HasPrefix(out, "sluice "+version()+" (go1.") {
		t.Fatalf("status %d: %q", status, out)
	}
}
