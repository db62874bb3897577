package store

import (
	"context"
	"database/sql/driver"
	"net"
	"time"

	"github.com/lib/pq"
)

// connectorUse says what the connections of one pool are for.
type connectorUse struct {
	deadline time.Duration // of every answer; 0: none
	verify   bool          // the incarnation is compared before the connection is used
	pooled   bool          // a pooler stands between: no session settings, no prepared statements
}

// connector makes verified connections: database/sql gets none that leads to another incarnation of the log than the
// one that Store.Epoch tells.
type connector struct {
	inner *pq.Connector
	store *Store
	use   connectorUse
}

func (s *Store) connector(text string, use connectorUse) (*connector, error) {
	config, err := pq.NewConfig(text)
	if err != nil {
		return nil, err
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	config.BinaryParameters = config.BinaryParameters || use.pooled
	inner, err := pq.NewConnectorConfig(config)
	if err != nil {
		return nil, err
	}
	inner.Dialer(dialer{deadline: use.deadline})
	return &connector{inner: inner, store: s, use: use}, nil
}

// sessionSettings hold for every connection of the main pool that is a session of its own.
//
//   - enable_seqscan: a plan that is cached while a partition is young and was never analysed would scan it whole
//     when it is full.
//   - jit: the price that enable_seqscan puts on the one-row tables would make Postgres compile every statement, which
//     takes 100 ms and more.
//   - plan_cache_mode: that price also keeps Postgres from ever taking a plan that it has; planning over all partitions anew
//     for each batch takes longer than the insert.
//   - the time-outs: a statement whose client is gone must not hold the row of an org for long.
const sessionSettings = `set enable_seqscan = off; set jit = off; set plan_cache_mode = force_generic_plan; set lock_timeout = '8s';
	set statement_timeout = '15s'; set idle_in_transaction_session_timeout = '15s'; set application_name = 'sluice'`

// Connect opens one connection and, where asked to, compares the incarnation before anybody uses it.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.inner.Connect(ctx)
	if err != nil || !c.use.verify {
		return conn, err
	}
	if !c.use.pooled {
		if _, err := conn.(driver.ExecerContext).ExecContext(ctx, sessionSettings, nil); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if err := c.store.verify(ctx, conn); err != nil {
		conn.Close()
		return nil, err
	}
	if c.use.pooled {
		return uncancelled{conn.(pqConn)}, nil
	}
	return conn, nil
}

func (c *connector) Driver() driver.Driver { return c.inner.Driver() }

// dialer gives connections whose reads end: the deadline is set anew with every request and every answer.
type dialer struct {
	deadline time.Duration
	opened   func(net.Conn) // told of every connection; may be nil
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	plain := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3,
	}}
	conn, err := plain.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if d.deadline > 0 {
		conn = &impatientConn{Conn: conn, deadline: d.deadline}
	}
	if d.opened != nil {
		d.opened(conn)
	}
	return conn, nil
}

// impatientConn fails a read that waits longer for an answer than its deadline.
type impatientConn struct {
	net.Conn
	deadline time.Duration
}

func (c *impatientConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.deadline)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *impatientConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil {
		err = c.SetReadDeadline(time.Now().Add(c.deadline))
	}
	return n, err
}
