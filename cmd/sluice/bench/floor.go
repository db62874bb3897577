package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Floor is the least that delivering can cost on this machine: a loop of bare write(2) over sockets that somebody
// else has accepted. It is a process of its own, so that its CPU time and memory are its own.
type Floor struct {
	Subscribers int           `default:"1000"`
	Rate        int           `default:"20"`
	Duration    time.Duration `default:"10s"`
	Sharing     int
	Transport   door `enum:"sse,ndjson,websocket" default:"sse"`
}

// floorResult is what the floor says of itself at its end.
type floorResult struct {
	Deliveries int64
	CPU        time.Duration
	IdleKiB    int // resident memory before the first message
	BareKiB    int // and before the first connection
}

// Run prints its address, serves, and prints its result as JSON when it is done.
func (f *Floor) Run() error {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	result := floorResult{BareKiB: resident()}
	fmt.Println(listener.Addr())
	conns, sockets, err := acceptAll(listener, f.Subscribers, f.Transport)
	if err != nil {
		return err
	}
	result.IdleKiB = resident()
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	before := cpuTime()
	result.Deliveries = f.deliver(sockets)
	result.CPU = cpuTime() - before
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		return err
	}
	return linger(conns)
}

// acceptAll greets so many readers. The descriptors are those of the connections.
func acceptAll(listener net.Listener, readers int, door door) (conns []net.Conn, sockets []int, err error) {
	for range readers {
		conn, err := listener.Accept()
		if err != nil {
			return nil, nil, err
		}
		request := bufio.NewReaderSize(conn, 4096)
		for {
			line, err := request.ReadString('\n')
			if err != nil {
				return nil, nil, err
			}
			if line == "\r\n" {
				break
			}
		}
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { sockets = append(sockets, int(fd)) })
		}
		if err != nil {
			return nil, nil, err
		}
		conns = append(conns, conn)
		fmt.Fprint(conn, door.greeting())
	}
	return conns, sockets, nil
}

// linger keeps the connections for as long as somebody reads them: whoever started us closes our input then.
func linger(conns []net.Conn) error {
	_, err := io.Copy(io.Discard, os.Stdin)
	for _, conn := range conns {
		conn.Close()
	}
	return err
}

// deliver writes each message to every socket: by the clock, or as fast as it goes, a hundred events a write.
func (f *Floor) deliver(sockets []int) (deliveries int64) {
	events := 1
	if f.Rate == 0 {
		events = 100
	}
	started := time.Now()
	for n, seq := 0, int64(0); time.Since(started) < f.Duration; n++ {
		if f.Rate > 0 {
			time.Sleep(time.Until(started.Add(time.Duration(n) * time.Second / time.Duration(f.Rate))))
		}
		bytes := f.Transport.write(seq, events)
		seq += int64(events)
		to := sockets
		if f.Sharing > 0 {
			first := n * f.Sharing % len(sockets)
			to = sockets[first:min(first+f.Sharing, len(sockets))]
		}
		for _, fd := range to {
			writeAll(fd, bytes)
			deliveries += int64(events)
		}
	}
	return deliveries
}

// writeAll writes to a socket that may be full for a while; what a broken one does not take is lost.
func writeAll(fd int, bytes []byte) {
	for len(bytes) > 0 {
		n, err := syscall.Write(fd, bytes)
		if err == syscall.EAGAIN {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 1000)
		} else if err != nil && err != syscall.EINTR {
			return
		}
		bytes = bytes[max(n, 0):]
	}
}

// cpuTime is what this process has used, in user and system mode.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage) // it cannot fail for ourselves
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// resident is this process's memory in KiB.
func resident() int {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "VmRSS:"); found {
			kib := 0
			_, _ = fmt.Sscan(value, &kib)
			return kib
		}
	}
	return 0
}
