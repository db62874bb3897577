package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// scriptOf writes the script of a shell to a file.
func scriptOf(t *testing.T, shell string) string {
	t.Helper()
	out, notes, status := outcome(t, sluice("completion", shell))
	if status != 0 {
		t.Fatalf("status %d: %s", status, notes)
	}
	path := filepath.Join(t.TempDir(), "sluice."+shell)
	if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// shellRun executes lines in a shell and returns the words printed, sorted.
func shellRun(t *testing.T, shell, lines string, args ...string) []string {
	t.Helper()
	out, notes, status := outcome(t, exec.Command(shell, append([]string{"-c", lines}, args...)...))
	if status != 0 || notes != "" {
		t.Fatalf("%s: status %d: %s", shell, status, notes)
	}
	words := strings.Fields(out)
	slices.Sort(words)
	return words
}

// inBash completes the last of the words as bash does.
func inBash(t *testing.T, script string, words ...string) []string {
	t.Helper()
	return shellRun(t, "bash", `source "$1"; shift
		[[ $(complete -p sluice) == "complete -F _sluice sluice" ]] || exit 3
		COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sluice; printf '%s\n' "${COMPREPLY[@]}"`, append([]string{"bash", script}, words...)...)
}

// model is the command line as the parser has it.
func model(t *testing.T) *kong.Node {
	t.Helper()
	parser, err := kong.New(&commands{}, kong.Name("sluice"))
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model.Node
}

// TestCompletionBash completes in bash, and compares every command's words and flags with the parser's.
func TestCompletionBash(t *testing.T) {
	script := scriptOf(t, "bash")
	if _, notes, status := outcome(t, exec.Command("bash", "-n", script)); status != 0 {
		t.Fatal(notes)
	}
	var walk func(node *kong.Node, path []string)
	walk = func(node *kong.Node, path []string) {
		var names, flags []string
		for _, child := range node.Children {
			if !child.Hidden {
				names = append(names, child.Name)
				walk(child, append(slices.Clone(path), child.Name))
			}
		}
		for _, flag := range slices.Concat(node.AllFlags(true)...) {
			flags = append(flags, "--"+flag.Name)
		}
		if slices.Sort(names); len(names) > 0 {
			if got := inBash(t, script, append(slices.Clone(path), "")...); !slices.Equal(got, names) {
				t.Errorf("%v is followed by %v, not by %v", path, got, names)
			}
		}
		got := inBash(t, script, append(slices.Clone(path), "--")...)
		for _, flag := range flags {
			if !slices.Contains(got, flag) {
				t.Errorf("%v does not offer %s but %v", path, flag, got)
			}
		}
	}
	walk(model(t), []string{"sluice"})
	for _, c := range []struct{ typed, want string }{
		{"sluice mig", "migrate"},
		{"sluice migrate s", "status"},
		{"sluice completion ", "bash fish zsh"},
		{"sluice tail --pr", "--pretty --property"},
		{"sluice tail --services migrate --cu", "--cursor"},
		{"sluice tail --services = migrate --cu", "--cursor"},
		{"sluice serve --log-format ", "json text"},
		{"sluice serve --log-format =", "json text"},
		{"sluice serve --log-format = j", "json"},
		{"sluice serve --no", "--no-migrate"},
		{"sluice tail --services ", ""},
	} {
		if got := strings.Join(inBash(t, script, strings.Split(c.typed, " ")...), " "); got != c.want {
			t.Errorf("%q completes to %q, not %q", c.typed, got, c.want)
		}
	}
}

// TestCompletionStepsOver does not take the value of a flag for a command.
func TestCompletionStepsOver(t *testing.T) {
	var line struct {
		Config  string
		Migrate struct {
			Up struct{} `cmd:""`
		} `cmd:""`
	}
	parser, err := kong.New(&line, kong.Name("sluice"))
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := completeBash(&text, placesOf(parser.Model.Node, "sluice")); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for typed, want := range map[string]string{
		"sluice --config migrate ": "migrate", "sluice --config = migrate ": "migrate", "sluice --config x migrate ": "up",
		"sluice --config = x migrate ": "up",
	} {
		if got := strings.Join(inBash(t, script, strings.Split(typed, " ")...), " "); got != want {
			t.Errorf("%q completes to %q, not %q", typed, got, want)
		}
	}
}

// TestCompletionFiles offers directories where one is wanted.
func TestCompletionFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	got := inBash(t, scriptOf(t, "bash"), "sluice", "token", "--data", filepath.Join(dir, "da"))
	if want := filepath.Join(dir, "data"); !slices.Equal(got, []string{want}) {
		t.Errorf("%v, not %s", got, want)
	}
}

// TestCompletionOthers checks the other shells' scripts: for what they must name, and with the shells themselves on
// machines that have them.
func TestCompletionOthers(t *testing.T) {
	for _, shell := range []string{"zsh", "fish"} {
		script := scriptOf(t, shell)
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"sluice migrate up", "pretty", "print-config", "--no-migrate"} {
			if shell == "fish" {
				want = strings.TrimPrefix(want, "--")
			}
			if !strings.Contains(string(text), want) {
				t.Errorf("the script for %s does not name %q", shell, want)
			}
		}
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		if _, notes, status := outcome(t, exec.Command(shell, "-n", script)); status != 0 {
			t.Errorf("%s: %s", shell, notes)
		}
	}
	if _, err := exec.LookPath("fish"); err == nil {
		script := scriptOf(t, "fish")
		for typed, want := range map[string]string{
			"sluice migrate ": "status up", "sluice serve --log-format ": "json text", "sluice tail --services x --cur": "--cursor",
		} {
			// A candidate's line is the word, a tab and its help.
			got := shellRun(t, "fish", `source $argv[1]; complete -C $argv[2] | string replace -r '\t.*' ''; or true`, script, typed)
			if strings.Join(got, " ") != want {
				t.Errorf("fish completes %q to %v, not %q", typed, got, want)
			}
		}
	}
}
