package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
)

// floorSource is the floor's process as readers see it.
type floorSource struct{ address netip.AddrPort }

func (floorSource) name() string           { return "the floor" }
func (f floorSource) addr() netip.AddrPort { return f.address }
func (floorSource) request(int, *load) ([]byte, error) {
	return []byte("GET / HTTP/1.1\r\nHost: floor\r\n\r\n"), nil
}

// floorChild is a floor's process.
type floorChild struct {
	command *exec.Cmd
	address netip.AddrPort
	in      io.WriteCloser
	said    *bufio.Scanner
}

// startFloor starts one of the hidden commands, which listens then.
func startFloor(ctx context.Context, args ...string) (c *floorChild, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c = &floorChild{command: exec.CommandContext(ctx, self, append([]string{"bench"}, args...)...)}
	c.command.Stderr = os.Stderr
	if c.in, err = c.command.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.command.Start(); err != nil {
		return nil, err
	}
	c.said = bufio.NewScanner(out)
	c.said.Scan()
	if c.address, err = netip.ParseAddrPort(c.said.Text()); err != nil {
		c.close()
		return nil, fmt.Errorf("the floor did not start: %w", err)
	}
	return c, nil
}

// run has it deliver, and gives what it says of that.
func (c *floorChild) run() (result floorResult, err error) {
	if _, err := io.WriteString(c.in, "go\n"); err != nil {
		return result, err
	}
	if !c.said.Scan() {
		return result, errors.New("the floor ended early")
	}
	return result, json.Unmarshal(c.said.Bytes(), &result)
}

func (c *floorChild) close() {
	c.in.Close()
	_ = c.command.Process.Kill()
	_ = c.command.Wait()
}
