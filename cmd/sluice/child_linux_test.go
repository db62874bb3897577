package main

import "syscall"

// dieWithTest has the kernel end a child whose test process is gone.
func dieWithTest(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGTERM }
