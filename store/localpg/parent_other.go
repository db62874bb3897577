//go:build !linux

package localpg

import "os/exec"

// dieWithParent is to be had on Linux only; elsewhere the next start stops what was left.
func dieWithParent(*exec.Cmd) {}
