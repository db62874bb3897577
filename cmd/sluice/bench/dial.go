package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	portsOfOne  = 20_000 // connections from one source address, well below the kernel's ephemeral ports
	connectMost = 10 * time.Second
)

// lookup resolves a name; the first address that is found is taken.
func lookup(hostport string) (netip.AddrPort, error) {
	addr, err := net.ResolveTCPAddr("tcp", hostport)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return addr.AddrPort(), nil
}

// dial connects and writes the request. The descriptor is non-blocking afterwards and belongs to the caller. The nth
// connection to a loopback address comes from 127.0.0.1 and the addresses after it, as the ports of each are used up.
func dial(to netip.AddrPort, nth int, request []byte) (fd int, err error) {
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
			fd = -1
		}
	}()
	// The time of sending bounds connect(2) as well.
	limit := unix.NsecToTimeval(connectMost.Nanoseconds())
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return fd, os.NewSyscallError("setsockopt", err)
	}
	if source := nth / portsOfOne; source > 0 && to.Addr().Is4() && to.Addr().IsLoopback() {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + source)}}); err != nil {
			return fd, os.NewSyscallError("bind", err)
		}
	}
	for {
		if err = unix.Connect(fd, sockaddr(to)); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fd, os.NewSyscallError("connect", err)
	}
	for len(request) > 0 {
		n, err := unix.Write(fd, request)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fd, os.NewSyscallError("write", err)
		}
		request = request[n:]
	}
	return fd, unix.SetNonblock(fd, true)
}

func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// spareDescriptors is what the process needs beside its readers' sockets.
const spareDescriptors = 200

// raiseDescriptors makes room for so many sockets, as far as the hard limit allows.
func raiseDescriptors(sockets int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	want := uint64(sockets + spareDescriptors)
	if limit.Max < want {
		return fmt.Errorf("%d readers need %d descriptors, and the limit is %d: raise it (`ulimit -Hn`, or LimitNOFILE "+
			"of systemd), here and for the server, or take fewer", sockets, want, limit.Max)
	}
	limit.Cur = limit.Max
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
}

// explainDial says what to do about a connection that could not be made.
func explainDial(url string, err error) error {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("nobody listens at %s: start a server there (`sluice serve --max-streams-per-user 0 "+
			"--max-streams-per-org 0`), or name another with --url", url)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("no ports are left to connect to %s: wait a minute for those of the last run, or take fewer "+
			"readers", url)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("too few descriptors to connect to %s: raise `ulimit -n`, or take fewer readers", url)
	case errors.Is(err, unix.EINPROGRESS), errors.Is(err, unix.ETIMEDOUT):
		return fmt.Errorf("%s did not answer within %s: is it the right --url?", url, connectMost)
	}
	return fmt.Errorf("cannot reach %s: %w", url, err)
}
