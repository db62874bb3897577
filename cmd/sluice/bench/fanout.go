package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// Fanout is `sluice bench fanout`.
type Fanout struct {
	target
	Subscribers int           `default:"1000" help:"Connections that read."`
	Rate        int           `default:"20" help:"Messages a second; 0: as fast as they are acknowledged."`
	Duration    time.Duration `default:"10s" help:"Of the load on each of the two."`
	Publishers  int           `default:"1" help:"That publish at once."`
	Batch       int           `default:"1" help:"Events of one request."`
	Sharing     int           `default:"0" help:"Give every reader a filter of its own, and each message to so many of them. 0: everybody reads everything."`
	Transport   door          `enum:"sse,ndjson,websocket" default:"sse" help:"Door that they read through: ${enum}."`
	NoFloor     bool          `name:"no-floor" help:"Measure the server alone."`
	JSON        bool          `name:"json" help:"Print the report as JSON."`
}

// Help shows examples.
func (Fanout) Help() string {
	return `Start a server first, without limits for one user:
  sluice serve --max-streams-per-user 0 --max-streams-per-org 0

Examples:
  sluice bench fanout                                       1,000 readers, 20 messages/s
  sluice bench fanout --transport websocket                 the same over WebSockets
  sluice bench fanout --rate 0 --publishers 4 --batch 100   as much as goes
  sluice bench fanout --sharing 10                          1,000 filters, ten readers a message
  sluice bench fanout --sharing 10 --subscribers 10         what those ten cost alone`
}

// outcome is what one of the two did.
type outcome struct {
	Name            string
	Messages        int64
	Deliveries      int64
	Seconds         float64
	P50, P99, Most  time.Duration
	CPU             time.Duration
	Lost, Repeated  int64
	KiBPerConn      float64
	AckP50, AckP99  time.Duration
	MicrosecondsCPU float64 // a delivery
	Bytes           float64 // that came of a delivery, framing and all
}

// verdict fails a run in which a reader missed an event or had one twice, whatever its speed.
func (o *outcome) verdict() error {
	if o.Lost+o.Repeated == 0 {
		return nil
	}
	return fmt.Errorf("the %s failed its readers: %d events lost, %d twice; its figures mean nothing", o.Name, o.Lost, o.Repeated)
}

// Run measures and prints.
func (f *Fanout) Run(ctx context.Context) error {
	from, err := f.aim()
	if err != nil {
		return err
	}
	if err := raiseDescriptors(f.Subscribers); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, machine(f.Data))
	l := &load{readers: f.Subscribers, rate: f.Rate, duration: f.Duration, sharing: f.Sharing, door: f.Transport}
	served, err := f.measureServer(ctx, from, l)
	if err != nil {
		return err
	}
	outcomes := []outcome{served}
	if !f.NoFloor {
		least, err := f.measureFloor(ctx, l)
		if err != nil {
			return err
		}
		outcomes = append(outcomes, least)
	}
	var verdict error
	for _, o := range outcomes {
		verdict = errors.Join(verdict, o.verdict())
	}
	if f.JSON {
		return errors.Join(json.NewEncoder(os.Stdout).Encode(outcomes), verdict)
	}
	for _, o := range outcomes {
		fmt.Printf("%-6s  %9.0f deliveries/s  latency p50 %s p99 %s max %s  CPU %.2f µs/delivery  %.2f KiB/connection  %d lost, %d twice\n",
			o.Name, float64(o.Deliveries)/o.Seconds, o.P50, o.P99, o.Most, o.MicrosecondsCPU, o.KiBPerConn, o.Lost, o.Repeated)
	}
	fmt.Printf("server  published %.0f events/s, acknowledged in p50 %s p99 %s; CPU %.1f µs/message\n",
		float64(served.Messages)/served.Seconds, served.AckP50, served.AckP99, float64(served.CPU.Microseconds())/float64(max(1, served.Messages)))
	if len(outcomes) == 2 {
		fmt.Printf("ratio   CPU a delivery %.2f  deliveries/s %.2f\n", served.MicrosecondsCPU/outcomes[1].MicrosecondsCPU,
			float64(served.Deliveries)/served.Seconds/(float64(outcomes[1].Deliveries)/outcomes[1].Seconds))
	}
	return verdict
}

func (f *Fanout) measureServer(ctx context.Context, from *server, l *load) (o outcome, err error) {
	before, err := from.usage()
	if err != nil {
		return o, err
	}
	rs, err := newReaders()
	if err != nil {
		return o, err
	}
	defer rs.close()
	if err := rs.open(ctx, from, l); err != nil {
		return o, err
	}
	connected, err := from.usage()
	if err != nil {
		return o, err
	}
	started := time.Now()
	published, err := from.publish(ctx, l, f.Publishers, f.Batch)
	if err != nil {
		return o, err
	}
	each := int64(l.readers)
	if l.sharing > 0 {
		each = min(each, int64(l.sharing))
	}
	err = rs.wait(ctx, 10*time.Second, func() bool { return rs.delivered() >= published.events*each }, func() error {
		return fmt.Errorf("%d of %d deliveries arrived", rs.delivered(), published.events*each)
	})
	if err != nil {
		return o, err
	}
	o.Seconds = time.Since(started).Seconds()
	after, err := from.usage()
	o.Name, o.Messages, o.CPU = "server", published.events, after.cpu-connected.cpu
	o.AckP50, o.AckP99 = published.acks.quantile(.5), published.acks.quantile(.99)
	o.KiBPerConn = float64(connected.resident-before.resident) / 1024 / float64(max(1, l.readers))
	o.take(rs)
	return o, err
}

// take ends the readers and adds up what they have seen.
func (o *outcome) take(rs *readers) {
	rs.close()
	var latency histogram
	for _, one := range rs.loops {
		latency.merge(&one.latency)
		o.Bytes += float64(one.bytes)
	}
	o.Deliveries = rs.delivered()
	o.Bytes /= float64(max(1, o.Deliveries))
	for _, r := range rs.all {
		o.Lost += r.missing
		o.Repeated += r.repeated
	}
	o.P50, o.P99, o.Most = latency.quantile(.5), latency.quantile(.99), latency.quantile(1)
	o.MicrosecondsCPU = float64(o.CPU.Nanoseconds()) / 1000 / float64(max(1, o.Deliveries))
}

// measureFloor runs the same load against a bare loop of writes, in a process of its own.
func (f *Fanout) measureFloor(ctx context.Context, l *load) (o outcome, err error) {
	child, err := startFloor(ctx, "floor", fmt.Sprintf("--subscribers=%d", l.readers),
		fmt.Sprintf("--rate=%d", l.rate), fmt.Sprintf("--duration=%s", l.duration), fmt.Sprintf("--sharing=%d", l.sharing),
		fmt.Sprintf("--transport=%s", l.door))
	if err != nil {
		return o, err
	}
	defer child.close()
	rs, err := newReaders()
	if err != nil {
		return o, err
	}
	defer rs.close()
	if err := rs.open(ctx, floorSource{child.address}, &load{readers: l.readers, rate: l.rate, door: l.door}); err != nil {
		return o, err
	}
	started := time.Now()
	result, err := child.run()
	if err != nil {
		return o, err
	}
	err = rs.wait(ctx, 10*time.Second, func() bool { return rs.delivered() >= result.Deliveries }, func() error {
		return fmt.Errorf("%d of the floor's %d deliveries arrived", rs.delivered(), result.Deliveries)
	})
	o.Seconds = time.Since(started).Seconds()
	o.Name, o.CPU = "floor", result.CPU
	o.KiBPerConn = float64(result.IdleKiB-result.BareKiB) / float64(max(1, l.readers))
	o.take(rs)
	if l.sharing > 0 {
		o.Lost = 0 // the floor's cursors are common to all; a reader has a few of them
	}
	return o, err
}
