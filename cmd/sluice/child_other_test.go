//go:build !linux

package main

import "syscall"

// dieWithTest does nothing: this system has no such signal.
func dieWithTest(*syscall.SysProcAttr) {}
