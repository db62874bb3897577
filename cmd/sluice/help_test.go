package main

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestHelpHasExamples asks every command and subcommand of the parser's own model for help: each shows an example
// that names the command, and every flag says what it is for.
func TestHelpHasExamples(t *testing.T) {
	seen := 0
	var walk func(node *kong.Node, path []string)
	walk = func(node *kong.Node, path []string) {
		seen++
		for _, flag := range node.Flags {
			if flag.Help == "" {
				t.Errorf("sluice %v: --%s does not say what it is for", path, flag.Name)
			}
		}
		for _, child := range node.Children {
			if !child.Hidden {
				walk(child, append(path[:len(path):len(path)], child.Name))
			}
		}
		_, examples, found := strings.Cut(node.Detail, "Example")
		if !found || !strings.Contains(examples, strings.Join(append([]string{"sluice"}, path...), " ")) {
			t.Errorf("sluice %v shows no example of itself but %q", path, node.Detail)
		}
	}
	walk(model(t), nil)
	if seen < 15 {
		t.Errorf("the model has %d commands only", seen)
	}
}

// TestHelpIsPrinted runs --help as people do, at three depths: the examples are on standard output, and it exits 0.
func TestHelpIsPrinted(t *testing.T) {
	for _, path := range []string{"", "serve", "epoch", "migrate up", "bench fanout"} {
		out, notes, status := outcome(t, sluice(append(strings.Fields(path), "--help")...))
		if status != 0 || notes != "" || !strings.Contains(out, "Usage: sluice "+path) || !strings.Contains(out, "Example") {
			t.Errorf("sluice %s --help: status %d, %q: %s", path, status, notes, out)
		}
	}
	for _, wrong := range [][]string{{}, {"nothing"}, {"serve", "--nothing"}, {"migrate"}} {
		out, notes, status := outcome(t, sluice(wrong...))
		if status != 2 || !strings.Contains(out+notes, "--help") {
			t.Errorf("sluice %v: status %d: %s%s", wrong, status, out, notes)
		}
	}
}
