package localpg

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel end Postgres, at once but in order, when the thread that starts it ends.
func dieWithParent(command *exec.Cmd) { command.SysProcAttr.Pdeathsig = syscall.SIGQUIT }
