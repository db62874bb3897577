package bench

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
)

// ChatFloor is the least that a message in a room can cost on this machine and database: one transaction with an INSERT and a
// NOTIFY, and a loop that hears of it and writes to the sockets of the room. Nobody is checked, nothing is numbered,
// nothing can be resumed. It is a process of its own, so that its CPU time is its own.
type ChatFloor struct {
	Rooms       int           `default:"1"`
	Members     int           `default:"100"`
	Rate        int           `default:"50"`
	Duration    time.Duration `default:"15s"`
	Transport   door          `enum:"sse,ndjson,websocket" default:"websocket"`
	DatabaseURL string        `required:"" name:"database-url"`
}

const (
	floorSpeakers = 8                // connections that insert
	floorPatience = 10 * time.Second // between two notifications
	floorChannel  = "sluice_bench"
	dropFloor     = `drop schema if exists sluice_bench cascade`
)

// Run prints its address, serves, and prints its result as JSON when it is done.
func (f *ChatFloor) Run(ctx context.Context) error {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	conns, sockets, err := acceptAll(listener, f.Rooms*f.Members, f.Transport)
	if err != nil {
		return err
	}
	db, err := sql.Open("postgres", f.DatabaseURL)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(floorSpeakers)
	db.SetMaxIdleConns(floorSpeakers)
	if _, err := db.ExecContext(ctx, dropFloor+`; create schema sluice_bench; create table sluice_bench.said (
		number bigint primary key, room text not null, words text not null, time timestamptz not null default clock_timestamp())`); err != nil {
		return fmt.Errorf("the floor cannot make a table, take --no-floor: %w", err)
	}
	heard := pq.NewListener(f.DatabaseURL, time.Second, time.Second, nil)
	defer heard.Close()
	if err := heard.Listen(floorChannel); err != nil {
		return err
	}
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	before := cpuTime()
	var result floorResult
	speaking := make(chan error, 1)
	go func() { speaking <- f.speak(ctx, db) }()
	result.Deliveries, err = f.deliver(heard, sockets)
	result.CPU = cpuTime() - before
	err = errors.Join(err, <-speaking)
	if _, dropped := db.ExecContext(ctx, dropFloor); errors.Join(err, dropped) != nil {
		return errors.Join(err, dropped)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		return err
	}
	return linger(conns)
}

// crowd has the same order of speakers as the server's members.
func (f *ChatFloor) crowd() *crowd {
	return &crowd{rooms: f.Rooms, members: f.Members, rate: f.Rate, duration: f.Duration, name: "bench-aaaaaaaa"}
}

// speak inserts the load by the clock, over a few connections.
func (f *ChatFloor) speak(ctx context.Context, db *sql.DB) (err error) {
	insert, err := db.PrepareContext(ctx, `with said as (insert into sluice_bench.said (number, room, words) values ($1, $2, $3))
		select pg_notify('`+floorChannel+`', $4)`)
	if err != nil {
		return err
	}
	defer insert.Close()
	c, started := f.crowd(), time.Now()
	var turn atomic.Int64
	var group sync.WaitGroup
	failed := make(chan error, floorSpeakers)
	for range floorSpeakers {
		group.Go(func() {
			for n := turn.Add(1) - 1; n < c.total(); n = turn.Add(1) - 1 {
				time.Sleep(time.Until(started.Add(time.Duration(n) * time.Second / time.Duration(f.Rate))))
				_, room := c.speaker(n)
				if _, err := insert.ExecContext(ctx, n, c.room(room), words(n), clientID(n, time.Now())); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err = <-failed:
	default:
	}
	return err
}

// deliver hears of messages, and writes each to the sockets of its room.
func (f *ChatFloor) deliver(heard *pq.Listener, sockets []int) (deliveries int64, err error) {
	c := f.crowd()
	seqs := make([]int64, f.Rooms)
	for told := range c.total() {
		var id string
		select {
		case one := <-heard.Notify:
			if one == nil {
				return deliveries, errors.New("the floor has lost its connection")
			}
			id = one.Extra
		case <-time.After(floorPatience):
			return deliveries, fmt.Errorf("the floor has heard of %d of %d messages", told, c.total())
		}
		number, _ := sentAs([]byte(id))
		user, room := c.speaker(number)
		seqs[room]++
		bytes := f.Transport.frame("chat", told, []string{floorMessage(c, told+1, seqs[room], user, room, id)})
		for _, fd := range sockets[room*f.Members : (room+1)*f.Members] {
			writeAll(fd, bytes)
			deliveries++
		}
	}
	return deliveries, nil
}

// floorMessage is the event of a message, as long as the server's.
func floorMessage(c *crowd, seq, inRoom int64, user, room int, id string) string {
	number, _ := sentAs([]byte(id))
	var made strings.Builder
	fmt.Fprintf(&made, `{"id":"01a20d86-7184-75d6-84c5-b24c0f91521c","cursor":"floor00000-%d","orgId":"bench-aaaaaaaa","service":"chat","type":"message_created","entityType":"room","entityId":"%s","userId":"%s","time":"2026-01-01T00:00:00.000Z",`,
		seq, c.room(room), c.user(user))
	fmt.Fprintf(&made, `"data":{"room":"%s","seq":%d,"userId":"%s","displayName":"%s","text":"%s","clientId":"%s"}}`,
		c.room(room), inRoom, c.user(user), claimsOf(c.user(user)).DisplayName, words(number), id)
	return made.String()
}

// measureFloor runs the same load against the floor, in a process of its own.
func (c *crowd) measureFloor(ctx context.Context, database string) (o chatOutcome, err error) {
	child, err := startFloor(ctx, "chat-floor", "--rooms="+strconv.Itoa(c.rooms), "--members="+strconv.Itoa(c.members),
		"--rate="+strconv.Itoa(c.rate), "--duration="+c.duration.String(), "--transport="+string(c.door), "--database-url="+database)
	if err != nil {
		return o, err
	}
	defer child.close()
	rs, err := newReaders()
	if err != nil {
		return o, err
	}
	defer rs.close()
	c.heard.Store(0)
	listeners := c.listeners()
	from := floorSource{child.address}
	for i, one := range listeners {
		request, _ := from.request(i, nil) // never fails
		if err := c.listen(ctx, rs, i, one, from, request); err != nil {
			return o, err
		}
	}
	if err := rs.acknowledged(ctx, from); err != nil {
		return o, err
	}
	started := time.Now()
	result, err := child.run()
	if err != nil {
		return o, err
	}
	err = rs.wait(ctx, heardStall, func() bool { return c.heard.Load() >= result.Deliveries }, func() error {
		return nil // what is missing is counted
	})
	if err != nil {
		return o, err
	}
	o.Name, o.CPU, o.Messages = "floor", result.CPU, c.total()
	o.take(rs)
	o.collect(c, rs, listeners, histogram{}, started)
	return o, nil
}
