package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Chat is `sluice bench chat`.
type Chat struct {
	URL         []string      `env:"SLUICE_URL" default:"http://127.0.0.1:8080" placeholder:"URL" help:"Instances to measure, on one database; clear text. Members are spread over them."`
	Admin       []string      `default:"http://127.0.0.1:9180" placeholder:"URL" help:"Their admin listeners, in the same order, for CPU."`
	DatabaseURL string        `name:"database-url" env:"DATABASE_URL" placeholder:"URL" help:"Database that the floor writes to; the private one under --data if not given."`
	Rooms       int           `default:"1" help:"Rooms."`
	Members     int           `default:"100" help:"Users in each of them, each with a stream; nobody is in two."`
	Rate        int           `default:"50" help:"Messages a second, in all."`
	Duration    time.Duration `default:"15s" help:"Of the load on each of the two, 30s at most."`
	Transport   door          `enum:"sse,ndjson,websocket" default:"websocket" help:"Door that members read through: ${enum}. Over websocket they say what they say by its frames, else by POST."`
	NoFloor     bool          `name:"no-floor" help:"Measure the server alone."`
	signing
}

// Help shows examples.
func (Chat) Help() string {
	return `Everybody speaks in turn, and all members are to have each message of their room once and in order; else it ends with 1. One
more user for each instance comes and goes meanwhile in the first room, and the others' streams tell when they saw that.
The floor is one transaction a message, an INSERT and a NOTIFY, and one loop that hears of it and writes to the same number
of sockets. Members need descriptors, theirs and the server's: 10,000 with --rooms 1000 --members 10.

Start the server first, and another one on its database:
  sluice serve --max-streams-per-org 0
  sluice serve --max-streams-per-org 0 --data ./data2 --listen 127.0.0.1:8081 --admin-listen 127.0.0.1:9181 \
    --jwt-secret "$(cat data/jwt.secret)" --blobs "file://$PWD/data/uploads" \
    --database-url "host='$(sed -n 5p data/postgres/postmaster.pid)' port=5432 user=sluice dbname=sluice sslmode=disable"

Examples:
  sluice bench chat                                                100 users in a room, 50 messages/s
  sluice bench chat --url http://127.0.0.1:8080,http://127.0.0.1:8081 \
    --admin http://127.0.0.1:9180,http://127.0.0.1:9181            the same over two instances
  sluice bench chat --transport sse                                without WebSockets
  sluice bench chat --rooms 1000 --members 10 --rate 1000          as many in all as one instance is to bear`
}

const (
	chatMost      = 30 * time.Second // of the load
	userRate      = 10               // messages a second that a user may say in the long run
	latencyBarP50 = 10 * time.Millisecond
	latencyBarP99 = 50 * time.Millisecond
	presenceBar   = time.Second
)

// Run measures and prints.
func (c *Chat) Run(ctx context.Context) error {
	crowd, err := c.gather()
	if err != nil {
		return err
	}
	if err := raiseDescriptors(c.Rooms * c.Members); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, machine(c.Data))
	served, err := crowd.measure(ctx)
	if err != nil {
		return err
	}
	outcomes := []chatOutcome{served}
	if !c.NoFloor {
		address, err := database(c.DatabaseURL, c.Data)
		if err != nil {
			return err
		}
		least, err := crowd.measureFloor(ctx, address)
		if err != nil {
			return err
		}
		outcomes = append(outcomes, least)
	}
	c.print(outcomes)
	var verdict error
	for _, o := range outcomes {
		verdict = errors.Join(verdict, o.verdict())
	}
	return verdict
}

// gather checks the flags and makes the crowd that they speak of.
func (c *Chat) gather() (*crowd, error) {
	switch {
	case c.Rooms < 1 || c.Members < 1 || c.Rate < 1:
		return nil, errors.New("--rooms, --members and --rate must be 1 at least")
	case c.Duration <= 0 || c.Duration > chatMost:
		return nil, fmt.Errorf("--duration %s: take %s or less", c.Duration, chatMost)
	case c.Rate > c.Rooms*c.Members*userRate:
		return nil, fmt.Errorf("--rate %d: a user may say %d messages a second, and there are %d users", c.Rate, userRate, c.Rooms*c.Members)
	case len(c.Admin) != len(c.URL):
		return nil, fmt.Errorf("there are %d --url and %d --admin: each instance has one of both, in the same order", len(c.URL), len(c.Admin))
	}
	secret, err := c.secret()
	if err != nil {
		return nil, err
	}
	org := c.org()
	made := &crowd{
		rooms: c.Rooms, members: c.Members, rate: c.Rate, duration: c.Duration, door: c.Transport, org: org,
		name: "bench-" + strings.ToLower(rand.Text()[:8]),
	}
	for i, address := range c.URL {
		at, err := locate(address, c.Admin[i])
		if err != nil {
			return nil, err
		}
		at.org, at.secret = org, secret
		made.at = append(made.at, at)
	}
	return made, nil
}

// print tells what was measured, and which bars are met.
func (c *Chat) print(outcomes []chatOutcome) {
	for _, o := range outcomes {
		fmt.Printf("%-6s  %.0f messages/s, %.0f deliveries/s  latency p50 %s p99 %s max %s  CPU %.2f µs/delivery, %.0f µs/message  %d lost, %d twice, %d astray\n",
			o.Name, float64(o.Messages)/o.Seconds, float64(o.Deliveries)/o.Seconds, o.P50, o.P99, o.Most, o.MicrosecondsCPU,
			float64(o.CPU.Microseconds())/float64(max(1, o.Messages)), o.Lost, o.Repeated, o.Astray)
	}
	served := outcomes[0]
	fmt.Printf("server  answered in p50 %s p99 %s; %d instances, %d members of %d rooms\n", served.AckP50, served.AckP99, len(c.URL),
		c.Rooms*c.Members, c.Rooms)
	p := served.presence
	fmt.Printf("server  %d changes of presence, each seen by %d others in p50 %s p99 %s max %s (bar: %s, %s)\n", served.changes, c.Members,
		p.quantile(.5), p.quantile(.99), p.max, presenceBar, met(p.count > 0 && p.max < presenceBar))
	if c.Rooms == 1 {
		fmt.Printf("server  latency p50 < %s: %s; p99 < %s: %s\n", latencyBarP50, met(served.P50 < latencyBarP50), latencyBarP99,
			met(served.P99 < latencyBarP99))
	}
	reached := float64(served.Messages) / served.Seconds
	fmt.Printf("server  %d messages/s without loss: %s\n", c.Rate, met(served.verdict() == nil && reached > .98*float64(c.Rate)))
	if len(outcomes) == 2 {
		floor := outcomes[1]
		fmt.Printf("ratio   CPU a delivery %.2f  latency p50 %.2f p99 %.2f\n", served.MicrosecondsCPU/floor.MicrosecondsCPU,
			float64(served.P50)/float64(floor.P50), float64(served.P99)/float64(floor.P99))
	}
}

func met(bar bool) string {
	if bar {
		return "met"
	}
	return "missed"
}

// chatOutcome is what the server or the floor did with messages.
type chatOutcome struct {
	outcome
	Astray   int64 // deliveries of what was not said in the reader's room, or is another message than was said
	changes  int
	presence histogram
}

func (o *chatOutcome) verdict() error {
	if o.Lost+o.Repeated+o.Astray == 0 {
		return nil
	}
	return fmt.Errorf("the %s failed the members: %d messages lost, %d twice or late, %d astray; its figures mean nothing", o.Name, o.Lost,
		o.Repeated, o.Astray)
}

// judge compares what each member heard with what was said in their room: all of it, once, in order.
func (o *chatOutcome) judge(c *crowd, listeners []*listener) {
	for _, one := range listeners {
		count, sum := c.shareOf(one.room, o.Messages)
		o.Repeated += one.repeated + max(0, one.seq-count)
		o.Lost += one.missing + max(0, count-one.seq)
		o.Astray += one.astray
		if one.heard == count && one.sum != sum {
			o.Astray++
		}
	}
}

// shareOf is how many of the load's first messages are of a room, and the sum of their numbers.
func (c *crowd) shareOf(room int, messages int64) (count, sum int64) {
	first, rooms := int64(room), int64(c.rooms)
	if messages <= first {
		return 0, 0
	}
	count = (messages-first-1)/rooms + 1
	return count, count*first + rooms*count*(count-1)/2
}

// listener is what a member has heard. The loop of their stream owns it until that has ended.
type listener struct {
	room, rooms int
	seq         int64 // the newest message's
	heard       int64
	sum         int64 // of the numbers of what was heard
	missing     int64 // left out
	repeated    int64 // heard again, or after a later one
	astray      int64 // of other rooms
	change      int64 // the newest change of presence that was seen
}

// hear takes a message.
func (m *listener) hear(one said) {
	m.heard++
	m.sum += one.number
	if int(one.number%int64(m.rooms)) != m.room {
		m.astray++
	}
	if one.seq <= m.seq {
		m.repeated++
		return
	}
	m.missing += one.seq - m.seq - 1
	m.seq = one.seq
}

// listeners makes one for each member, in the order of their streams.
func (c *crowd) listeners() []*listener {
	list := make([]*listener, 0, c.rooms*c.members)
	for room := range c.rooms {
		for range c.members {
			list = append(list, &listener{room: room, rooms: c.rooms})
		}
	}
	return slices.Clip(list)
}
