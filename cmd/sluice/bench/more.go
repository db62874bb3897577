package bench

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Idle is `sluice bench idle`.
type Idle struct {
	target
	Subscribers int           `default:"10000" help:"Connections that stay silent."`
	Settle      time.Duration `default:"10s" help:"Wait before memory is read."`
	Transport   door          `enum:"sse,ndjson,websocket" default:"sse" help:"Door of the connections: ${enum}."`
}

// Help shows an example.
func (Idle) Help() string {
	return `Examples, at a server started with --max-streams-per-user 0 --max-streams-per-org 0:
  sluice bench idle --subscribers 10000
  sluice bench idle --subscribers 10000 --transport websocket`
}

// warmUp is how many come and go before memory is read for the first time.
const warmUp = 1000

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// Run connects, waits, leaves and waits, and prints the server's memory at each point. A thousand readers come and go
// first, and some seconds of publishing: what a server keeps once it has worked at all is not a connection's cost.
func (c *Idle) Run(ctx context.Context) error {
	from, err := c.aim()
	if err != nil {
		return err
	}
	if err := raiseDescriptors(c.Subscribers); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, machine(c.Data))
	memory := func(readers int) (connected, left int64, err error) {
		rs, err := newReaders()
		if err != nil {
			return 0, 0, err
		}
		defer rs.close()
		if err := rs.open(ctx, from, &load{readers: readers, rate: 1, door: c.Transport}); err != nil {
			return 0, 0, err
		}
		time.Sleep(c.Settle)
		full, err := from.usage()
		if err != nil {
			return 0, 0, err
		}
		rs.close()
		time.Sleep(c.Settle)
		empty, err := from.usage()
		return full.resident, empty.resident, err
	}
	if _, err := from.publish(ctx, &load{duration: 3 * time.Second}, 4, 10); err != nil {
		return err
	}
	_, before, err := memory(min(warmUp, c.Subscribers))
	if err != nil {
		return err
	}
	connected, after, err := memory(c.Subscribers)
	if err != nil {
		return err
	}
	bar := 3
	if c.Transport == doorWebSocket {
		bar = 8
	}
	fmt.Printf("server  %.1f MiB; with %d idle streams %.1f MiB, %.2f KiB each (bar: %d); after they left %.1f MiB, %.2f of before (bar: 1.2)\n",
		mib(before), c.Subscribers, mib(connected), float64(connected-before)/1024/float64(c.Subscribers), bar,
		mib(after), float64(after)/float64(before))
	return nil
}

// Publish is `sluice bench publish`.
type Publish struct {
	target
	Publishers int           `default:"64" help:"That publish at once, one request after another."`
	Batch      int           `default:"1" help:"Events of one request."`
	Duration   time.Duration `default:"10s" help:"Of the load."`
}

// Help shows an example.
func (Publish) Help() string {
	return `Example:
  sluice bench publish --publishers 64`
}

// Run publishes without readers and prints how fast that was acknowledged.
func (c *Publish) Run(ctx context.Context) error {
	from, err := c.aim()
	if err != nil {
		return err
	}
	done, err := from.publish(ctx, &load{duration: c.Duration}, c.Publishers, c.Batch)
	if err != nil {
		return err
	}
	fmt.Printf("server  %.0f events/s from %d publishers, acknowledged in p50 %s p99 %s; %s\n",
		float64(done.events)/done.took.Seconds(), c.Publishers, done.acks.quantile(.5), done.acks.quantile(.99), machine(c.Data))
	return nil
}

// Fsync is `sluice bench fsync`.
type Fsync struct {
	Data string `env:"SLUICE_DATA" default:"./data" help:"Directory on the disk to be timed."`
}

// Run prints what the machine is and how long one fsync takes.
func (c *Fsync) Run() error {
	fmt.Println(machine(c.Data))
	return nil
}
