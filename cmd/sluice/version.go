package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// release is set by the linker where a release is built: -ldflags "-X main.release=v1.2.3".
var release string

type versionCmd struct{}

// Help shows an example.
func (versionCmd) Help() string {
	return `Example:
  sluice version`
}

// Run prints the version, and what the binary was built with and from.
func (versionCmd) Run() error {
	text := runtime.Version()
	if revision := commit(); revision != "" {
		text += ", commit " + revision
	}
	fmt.Printf("sluice %s (%s)\n", version(), text)
	return nil
}

// version is the release's, or what Go knows of a build without one.
func version() string {
	if release != "" {
		return release
	}
	if build, ok := debug.ReadBuildInfo(); ok && build.Main.Version != "" && build.Main.Version != "(devel)" {
		return build.Main.Version
	}
	return "devel"
}

// commit is the revision that was built, with a + where the tree had changes; empty where Go does not know it.
func commit() (revision string) {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	changed := false
	for _, setting := range build.Settings {
		switch setting.Key {
		case "vcs.revision":
			revision = setting.Value[:min(12, len(setting.Value))]
		case "vcs.modified":
			changed = setting.Value == "true"
		}
	}
	if revision != "" && changed {
		revision += "+"
	}
	return revision
}
