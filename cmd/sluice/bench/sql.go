package bench

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"time"

	_ "github.com/lib/pq" // the driver

	"sluice/store/localpg"
)

// SQL is `sluice bench sql`.
type SQL struct {
	target
	DatabaseURL string        `name:"database-url" env:"DATABASE_URL" placeholder:"URL" help:"Database of the server; the private one under --data if not given."`
	Rate        int           `default:"20" help:"Events a second."`
	Duration    time.Duration `default:"20s" help:"Of each of the two loads."`
}

// Help shows an example.
func (SQL) Help() string {
	return `Example, as a user who may use the socket of the private Postgres:
  sluice bench sql --data ./data`
}

// Run publishes by each door in turn to one reader, and prints how long it took from before publishing to delivery.
func (c *SQL) Run(ctx context.Context) error {
	from, err := c.aim()
	if err != nil {
		return err
	}
	if c.Rate < 1 {
		return fmt.Errorf("--rate is %d; it must be 1 at least", c.Rate)
	}
	address, err := database(c.DatabaseURL, c.Data)
	if err != nil {
		return err
	}
	db, err := sql.Open("postgres", address)
	if err != nil {
		return err
	}
	defer db.Close()
	fmt.Println(machine(c.Data))
	l := &load{readers: 1, rate: c.Rate, duration: c.Duration}
	for _, door := range []struct {
		name    string
		publish func() (publishing, error)
	}{
		{"SQL ", func() (publishing, error) { return publishSQL(ctx, db, from.org, l) }},
		{"HTTP", func() (publishing, error) { return from.publish(ctx, l, 1, 1) }},
	} {
		seen, acks, err := c.deliver(ctx, from, l, door.publish)
		if err != nil {
			return fmt.Errorf("%s: %w", door.name, err)
		}
		fmt.Printf("%s  %d events delivered in p50 %s p99 %s max %s; answered in p50 %s p99 %s; %d lost, %d twice\n", door.name,
			seen.Deliveries, seen.P50, seen.P99, seen.Most, acks.quantile(.5), acks.quantile(.99), seen.Lost, seen.Repeated)
	}
	return nil
}

// database is the URL given, or that of the private Postgres below a data directory.
func database(given, dir string) (string, error) {
	if given != "" {
		return given, nil
	}
	address, err := localpg.Running(dir, "sluice")
	if err != nil {
		return "", fmt.Errorf("%w; name the server's database with --database-url", err)
	}
	return address, nil
}

// deliver publishes to one reader and waits until all is there.
func (c *SQL) deliver(ctx context.Context, from *server, l *load, publish func() (publishing, error)) (o outcome, acks histogram, err error) {
	rs, err := newReaders()
	if err != nil {
		return o, acks, err
	}
	defer rs.close()
	if err := rs.open(ctx, from, l); err != nil {
		return o, acks, err
	}
	done, err := publish()
	if err != nil {
		return o, acks, err
	}
	err = rs.wait(ctx, 10*time.Second, func() bool { return rs.delivered() >= done.events }, func() error {
		return fmt.Errorf("%d of %d events arrived", rs.delivered(), done.events)
	})
	o.take(rs)
	return o, done.acks, err
}

// publishSQL calls sluice.publish by the clock, each call a transaction. The moments are spread, so that they do not keep
// step with the relay.
func publishSQL(ctx context.Context, db *sql.DB, org string, l *load) (p publishing, err error) {
	every := time.Second / time.Duration(l.rate)
	started := time.Now()
	for n := 0; ; n++ {
		time.Sleep(time.Until(started.Add(time.Duration(n)*every + rand.N(every))))
		if time.Since(started) >= l.duration || ctx.Err() != nil {
			p.took = time.Since(started)
			return p, ctx.Err()
		}
		sent := time.Now()
		_, err := db.ExecContext(ctx, `select sluice.publish($1, 'finance', 'expense_added', jsonb_build_object('t', $2::bigint), '7')`,
			org, sent.UnixNano())
		if err != nil {
			return p, err
		}
		p.acks.add(time.Since(sent))
		p.events++
	}
}
