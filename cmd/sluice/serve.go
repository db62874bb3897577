package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"sluice/handlers"
	"sluice/store"
	"sluice/store/localpg"
	"sluice/streams"
)

const (
	postgresStop   = 30 * time.Second // a clean shutdown of the private Postgres
	appendStop     = 10 * time.Second // what publishers were promised is committed first
	headerTimeout  = 10 * time.Second // a client that sends its headers slower than this is closed
	requestTimeout = 20 * time.Second // and one that sends its body slower than this, whether somebody reads it or not
	idleTimeout    = 2 * time.Minute  // of a keep-alive connection between two requests
	headerLimit    = 32 << 10         // bytes of a request's headers
)

type serveCmd struct {
	serveFlags
	PrintConfig bool `name:"print-config" help:"Show what is in force and where each value comes from, and end."`
}

// Help shows examples.
func (serveCmd) Help() string {
	return `Every flag can be given as SLUICE_ and its name in capitals (DATABASE_URL for the database).

Examples:
  sluice serve --dev                          a page at http://127.0.0.1:8080/, a private Postgres in ./data
  sluice serve --listen 0.0.0.0:8080 --database-url 'postgres://app@db/app?sslmode=require' --jwt-secret …
  sluice serve --print-config                 what is in force, and why

SIGTERM and SIGINT drain: streams are told to come back, and find another instance. A second signal ends at once.`
}

// Run serves until ctx ends, drains and returns.
func (c *serveCmd) Run(ctx context.Context, command *kong.Context) error {
	if c.PrintConfig {
		return printConfig(os.Stdout, command)
	}
	if err := c.check(); err != nil {
		return err
	}
	log := c.logger(os.Stderr)
	slog.SetDefault(log)
	instance, err := start(ctx, &c.serveFlags, log)
	if err != nil {
		return err
	}
	return instance.serve(ctx)
}

func (f *serveFlags) logger(to io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(f.LogLevel)) // kong has checked it
	options := &slog.HandlerOptions{Level: level}
	if f.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(to, options))
	}
	return slog.New(slog.NewTextHandler(to, options))
}

// instance is one running Sluice. What it opened is closed in the reverse order.
type instance struct {
	flags *serveFlags
	log   *slog.Logger

	name            string // among the instances; another one at each start
	listener, admin net.Listener
	returned        net.Listener // connections whose poll was answered
	scheme          string
	events          *store.Store
	hub             *streams.Hub
	appender        *streams.Appender
	documents       *streams.Documents
	incoming        *streams.Uploads
	rooms           *streams.Rooms
	sharing         *streams.Sharing
	public, inner   *http.Server

	draining atomic.Bool
	closers  []func()
}

// start opens everything that serving needs, the listeners first: a port that is taken is told at once.
func start(ctx context.Context, flags *serveFlags, log *slog.Logger) (*instance, error) {
	i := &instance{flags: flags, log: log, scheme: "http", name: uuid.NewString()}
	if err := i.open(ctx); err != nil {
		i.close()
		return nil, err
	}
	return i, nil
}

func (i *instance) open(ctx context.Context) (err error) {
	flags, log := i.flags, i.log
	if i.listener, err = listen("--listen", flags.Listen, flags.Dev); err != nil {
		return err
	}
	i.onClose(func() { i.listener.Close() })
	if i.admin, err = listen("--admin-listen", flags.AdminListen, flags.Dev); err != nil {
		return err
	}
	i.onClose(func() { i.admin.Close() })

	url, err := i.database(ctx)
	if err != nil {
		return err
	}
	var changed atomic.Pointer[streams.Hub]
	i.events, err = store.Open(ctx, store.Options{
		URL: url, DirectURL: flags.ListenDatabaseURL, Migrate: flags.Migrate,
		KeepEpoch: flags.EpochOnFailover == "keep", Log: log,
		EpochChanged: func(epoch string) {
			if hub := changed.Load(); hub != nil {
				hub.EpochChanged(epoch)
			}
		},
	})
	if err != nil {
		return err
	}
	i.onClose(func() { i.events.Close() })
	catalogue, err := flags.catalogue()
	if err != nil {
		return err
	}
	if err := i.events.KeepCatalogue(ctx, catalogue); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := streams.NewMetrics(registry, catalogue)
	i.hub = streams.NewHub(i.events, catalogue, streams.Options{
		RingMemory: int64(flags.RingMemory), BatchWindow: flags.BatchWindow, BatchMax: flags.BatchMax,
		Heartbeat: flags.Heartbeat, MaxStreamsPerUser: flags.MaxStreamsPerUser, MaxStreamsPerOrg: flags.MaxStreamsPerOrg,
		OnRegression: i.regressed,
	}, metrics)
	changed.Store(i.hub)
	i.background(func(ctx context.Context) { streams.Retain(ctx, i.events, flags.Retention, flags.MessageRetention, log) })
	i.appender = streams.NewAppender(i.events, metrics)
	i.onClose(func() {
		stopping, cancel := context.WithTimeout(context.Background(), appendStop)
		defer cancel()
		i.appender.Close(stopping)
	})
	if err := i.uploads(ctx, metrics); err != nil {
		return err
	}
	notifier := streams.NewNotifier(i.events, i.hub, log)
	notifier.Wanted, notifier.Queued = i.incoming.Wanted, i.documents.Wake
	i.chat(notifier)
	i.background(notifier.Run)
	relay := streams.NewRelay(i.events.NewOutbox(catalogue), i.events.MakePartitions, metrics, log)
	i.background(relay.Run) // ends after the last request: what is published meanwhile is another instance's
	return i.door(catalogue, registry)
}

// onClose adds what close does before everything that was added earlier.
func (i *instance) onClose(f func()) { i.closers = append(i.closers, f) }

func (i *instance) close() {
	for len(i.closers) > 0 {
		last := len(i.closers) - 1
		i.closers[last]()
		i.closers = i.closers[:last]
	}
}

// background runs work until close.
func (i *instance) background(work func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { work(ctx) })
	i.onClose(func() {
		cancel()
		done.Wait()
	})
}

// listen opens a listener; with next it goes up to the next free port where the one asked for is taken.
func listen(flag, addr string, next bool) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	host, port, splitErr := net.SplitHostPort(addr)
	if err == nil || !next || splitErr != nil || !errors.Is(err, syscall.EADDRINUSE) {
		if err != nil {
			err = fmt.Errorf("%s: %w; name another address with %s", flag, err, flag)
		}
		return listener, err
	}
	number, parseErr := net.LookupPort("tcp", port)
	for above := 1; parseErr == nil && above <= 100 && number+above < 1<<16; above++ {
		free, tryErr := net.Listen("tcp", net.JoinHostPort(host, fmt.Sprint(number+above)))
		if tryErr == nil {
			fmt.Fprintf(os.Stderr, "sluice: %s %s is taken, using %s\n", flag, addr, free.Addr())
			return free, nil
		}
	}
	return nil, fmt.Errorf("%s: %w, and the hundred ports above it are taken too", flag, err)
}

// database gives the URL of the database, starting the private one where none was named. It is closed last.
func (i *instance) database(ctx context.Context) (string, error) {
	if i.flags.DatabaseURL != "" {
		return i.flags.DatabaseURL, nil
	}
	cluster, err := localpg.Start(ctx, localpg.Options{Dir: i.flags.Data, Log: i.log})
	if err != nil {
		return "", err
	}
	i.onClose(func() {
		stopping, cancel := context.WithTimeout(context.Background(), postgresStop)
		defer cancel()
		if err := cluster.Stop(stopping); err != nil {
			i.log.Error("the private Postgres did not stop cleanly", "err", err)
		}
	})
	return cluster.URL("sluice"), nil
}

// catalogue is the one of the file given, or the embedded one.
func (f *serveFlags) catalogue() (*store.Catalogue, error) {
	if f.Catalogue == "" {
		return store.DefaultCatalogue(), nil
	}
	text, err := os.ReadFile(f.Catalogue)
	if err != nil {
		return nil, err
	}
	catalogue, err := store.ParseCatalogue(text)
	if err != nil {
		return nil, fmt.Errorf("--catalogue %s: %w", f.Catalogue, err)
	}
	return catalogue, nil
}

// regressed is told when a log is shorter than what we have read of it, in one and the same epoch: an older copy was
// put back beneath the server. Cursors given out mean other events there, so a new epoch begins.
func (i *instance) regressed(org, was string) {
	ctx, cancel := context.WithTimeout(context.Background(), appendStop)
	defer cancel()
	epoch, err := i.events.RotateEpoch(ctx, was)
	i.log.Warn("a log went back behind what was read of it: a new epoch begins", "org", org, "epoch", epoch, "err", err)
}

// door builds the HTTP servers.
func (i *instance) door(catalogue *store.Catalogue, registry *prometheus.Registry) error {
	auth := handlers.AuthOptions{Issuer: i.flags.JWTIssuer, Audience: i.flags.JWTAudience, QueryToken: i.flags.AllowQueryToken}
	if i.flags.JWKSURL != "" {
		auth.Keys = handlers.NewKeySet(i.flags.JWKSURL, i.log)
	} else {
		secret, err := i.flags.secret()
		if err != nil {
			return err
		}
		auth.Secret = secret
	}
	if i.flags.PropertiesSQL != "" {
		auth.Properties = i.events.PropertiesOf(i.flags.PropertiesSQL)
	}
	proxies, err := handlers.ParseProxies(i.flags.TrustedProxies)
	if err != nil {
		return err
	}
	authenticator := handlers.NewAuthenticator(auth)
	if auth.Keys != nil {
		i.background(auth.Keys.Run)
	}
	sunset, err := i.flags.sunset()
	if err != nil {
		return err
	}
	positions := streams.NewPositions(i.events)
	server := &handlers.Server{
		Log: i.log, Auth: authenticator, Tickets: i.events, Catalogue: catalogue, Appender: i.appender, Hub: i.hub, Uploads: i.incoming, Rooms: i.rooms,
		Dev: i.flags.Dev, AllowedOrigins: i.flags.AllowedOrigins, TrustedProxies: proxies,
		PublishRate: i.flags.PublishRate, Draining: i.draining.Load, Version: version(),
		WriteTimeout: i.flags.WriteTimeout, Registry: registry, Positions: positions,
		Legacy: handlers.Legacy{
			Mode: func() handlers.LegacyMode { return handlers.LegacyMode(i.flags.Legacy) }, Sunset: sunset,
		},
		Checks: []handlers.Check{
			{Name: "database", Run: i.events.Ready},
			{Name: "listen", Run: i.events.ProbeListen},
			{Name: "partitions", Run: i.events.PartitionReady},
			{Name: "blobs", Run: i.sharing.Shared},
			{Name: "catalogue", Run: func(ctx context.Context) error { return sameCatalogue(ctx, i.events, catalogue) }},
		},
	}
	routes, err := server.Routes()
	if err != nil {
		return err
	}
	i.returned = server.Returned()
	i.onClose(server.Close)
	i.onClose(positions.Close) // its answers go out over the server's sockets
	i.onClose(i.hub.Close)     // before the server's own: no stream may be open then
	errors := slog.NewLogLogger(i.log.Handler(), slog.LevelDebug)
	i.public = &http.Server{
		Handler: routes, ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, IdleTimeout: idleTimeout,
		ConnContext: handlers.KeepConn, MaxHeaderBytes: headerLimit, ErrorLog: errors, Protocols: new(http.Protocols),
	}
	i.public.Protocols.SetHTTP1(true)
	if i.flags.TLSCert == "" {
		i.public.Protocols.SetUnencryptedHTTP2(true)
	} else {
		config, err := reloadingTLS(i.flags.TLSCert, i.flags.TLSKey, i.log)
		if err != nil {
			return err
		}
		// Which of the two Serve calls comes first decides in net/http whether HTTP/2 is set up at all, unless it is named here.
		config.NextProtos = []string{"h2", "http/1.1"}
		i.scheme = "https"
		i.public.TLSConfig = config
		i.public.Protocols.SetHTTP2(true)
	}
	i.inner = &http.Server{Handler: server.AdminRoutes(), ReadHeaderTimeout: headerTimeout, ErrorLog: errors}
	return nil
}

// sameCatalogue fails where another instance has brought another catalogue: the two would not agree on what a
// subscription means.
func sameCatalogue(ctx context.Context, events *store.Store, ours *store.Catalogue) error {
	kept, err := events.CatalogueInForce(ctx)
	if err != nil {
		return err
	}
	if kept != ours.Document() {
		return errors.New("the catalogue in force is not this instance's: start all with the same --catalogue")
	}
	return nil
}

// secret is the one given, or the one kept under the data directory, made at the first start.
func (f *serveFlags) secret() ([]byte, error) {
	if f.JWTSecret != "" {
		return []byte(f.JWTSecret), nil
	}
	return keptSecret(f.Data)
}

// serve answers requests until ctx ends or a listener fails; then it drains.
func (i *instance) serve(ctx context.Context) error {
	defer i.close()
	failed := make(chan error, 3)
	var serving sync.WaitGroup
	serving.Go(func() {
		if i.scheme == "https" {
			failed <- i.public.ServeTLS(i.listener, "", "")
		} else {
			failed <- i.public.Serve(i.listener)
		}
	})
	serving.Go(func() { failed <- i.public.Serve(i.returned) })
	serving.Go(func() { failed <- i.inner.Serve(i.admin) })
	// Postgres children, load balancers and scripts wait for this line.
	fmt.Printf("sluice: listening on %s://%s\n", i.scheme, i.listener.Addr())
	if i.flags.Dev {
		fmt.Printf("sluice: open %s://%s/ in a browser; metrics at http://%s/metrics\n", i.scheme, i.listener.Addr(), i.admin.Addr())
	}
	var err error
	select {
	case err = <-failed:
		i.log.Error("a listener failed", "err", err)
	case <-ctx.Done():
	}
	i.drain()
	serving.Wait()
	return err
}

// drain ends in the order in which nothing is lost: readiness fails first, streams are told to come back elsewhere,
// requests under way are answered, and what was promised is committed before the database goes.
func (i *instance) drain() {
	i.draining.Store(true)
	i.log.Info("draining", "streams", i.hub.Stats("").Streams, "for", i.flags.Drain)
	ctx, cancel := context.WithTimeout(context.Background(), i.flags.Drain)
	defer cancel()
	i.hub.Drain(ctx)
	shutdown, cancelShutdown := context.WithTimeout(context.Background(), max(time.Second, i.flags.Drain))
	defer cancelShutdown()
	if err := i.public.Shutdown(shutdown); err != nil {
		i.public.Close()
	}
	_ = i.inner.Close()
}
