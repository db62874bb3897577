package handlers

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-chi/cors"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/singleflight"

	"sluice/store"
	"sluice/streams"
)

// Appender is who commits events; its contract is that of streams.Appender.
type Appender interface {
	Append(ctx context.Context, drafts []store.Draft) ([]store.Appended, error)
}

// Server is everything that requests need; cmd fills it. Nothing of it changes while it serves.
type Server struct {
	Log            *slog.Logger
	Auth           *Authenticator
	Catalogue      *store.Catalogue
	Appender       Appender
	Hub            *streams.Hub
	Tickets        Tickets
	Uploads        Uploads
	Rooms          Rooms
	Positions      *streams.Positions // of the old API
	Legacy         Legacy
	Registry       *prometheus.Registry
	Checks         []Check     // of readiness
	Draining       func() bool // readiness fails first
	Dev            bool
	AllowedOrigins []string
	TrustedProxies []netip.Prefix // whose X-Forwarded-For is believed
	PublishRate    int            // requests a second of one token's subject; 0: no limit
	WriteTimeout   time.Duration  // of a reader without progress
	Version        string

	sockets          *sockets
	returned         *returned
	watchers         watchers   // of uploads' progress
	allowance        *allowance // of publishers
	ticketAllowance  *allowance
	messageAllowance *allowance
	roomAllowance    *allowance
	probes           singleflight.Group // of readiness
	probed           probed             // the last outcome; owned by whoever probes
	bodyTimeout      time.Duration      // for a whole body; set by Routes
	readPatience     time.Duration      // of an upload's body between two reads; set by Routes
}

// Routes is the public listener. Close ends what it has started.
func (s *Server) Routes() (http.Handler, error) {
	var err error
	if s.sockets, err = newSockets(); err != nil {
		return nil, err
	}
	s.allowance = newAllowance(s.PublishRate, s.PublishRate, fmt.Sprintf("this user publishes; up to %d events go into one request", batchLimit))
	s.ticketAllowance = newAllowance(ticketRate, ticketRate, "this user asks for tickets; a ticket opens an EventSource again and again")
	s.messageAllowance = newAllowance(messageRate, messageBurst, "this user sends, edits or deletes messages")
	s.roomAllowance = newAllowance(roomRate, roomRateBurst, "this user changes rooms or their members")
	s.bodyTimeout, s.readPatience, s.returned = bodyTimeout, readPatience, newReturned()
	router := chi.NewRouter()
	router.Use(s.identify, s.recoverPanics, methodOverride)
	if s.Dev {
		router.Use(s.ownHostOnly)
	}
	router.Use(cors.Handler(cors.Options{
		AllowOriginFunc:  func(_ *http.Request, origin string) bool { return s.allowsOrigin(origin) },
		AllowedMethods:   allowedMethods,
		AllowedHeaders:   allowedHeaders,
		ExposedHeaders:   exposedHeaders,
		AllowCredentials: true,
		MaxAge:           600,
	}))
	router.Use(middleware.GetHead)
	router.NotFound(s.serve(s.notFound))
	router.MethodNotAllowed(s.serve(s.notAllowed(router)))

	router.Post("/v2/events", s.serve(s.publish))
	router.Post("/v2/tickets", s.serve(s.ticket))
	router.Get("/v2/realtime/stream", s.serve(s.stream))
	router.Get("/v2/realtime/poll", s.serve(s.poll))
	router.Get("/v2/realtime/transport", s.serve(s.transport))
	router.Get("/v2/realtime/metrics", s.serve(s.metrics))
	router.Get(migrationGuide, s.serve(func(w http.ResponseWriter, r *http.Request) error { return s.file(w, r, "migration.html") }))
	router.Post(uploadsPath, s.uploads(s.createUpload))
	router.Put(uploadsPath, s.uploads(s.putUpload))
	router.Post(sessionsPath, s.uploads(s.createUpload))
	router.Get(uploadsPath+"/{id}", s.uploads(s.readUpload))
	router.Head(uploadsPath+"/{id}", s.uploads(s.headUpload))
	router.Put(uploadsPath+"/{id}", s.uploads(s.appendUpload))
	router.Patch(uploadsPath+"/{id}", s.uploads(s.appendUpload))
	router.Delete(uploadsPath+"/{id}", s.uploads(s.abortUpload))
	router.Get(uploadsPath+"/{id}/progress", s.serve(s.uploadProgress))
	router.Get(uploadsPath+"/{id}/content", s.serve(s.uploadContent))
	router.Post(uploadsPath+"/{id}/links", s.serve(s.uploadLink))
	router.Post(roomsPath, s.serve(s.createRoom))
	router.Get(roomsPath, s.room(http.StatusOK, s.listRooms))
	router.Get(roomsPath+"/{id}", s.room(http.StatusOK, s.findRoom))
	router.Patch(roomsPath+"/{id}", s.room(http.StatusOK, s.updateRoom))
	router.Delete(roomsPath+"/{id}", s.room(http.StatusNoContent, s.deleteRoom))
	router.Put(roomsPath+"/{id}/members/{user}", s.room(http.StatusNoContent, s.admitMember))
	router.Delete(roomsPath+"/{id}/members/{user}", s.room(http.StatusNoContent, s.removeMember))
	router.Post(roomsPath+"/{id}/messages", s.room(http.StatusCreated, s.say))
	router.Get(roomsPath+"/{id}/messages", s.room(http.StatusOK, s.history))
	router.Patch(roomsPath+"/{id}/messages/{seq}", s.room(http.StatusOK, s.editMessage))
	router.Delete(roomsPath+"/{id}/messages/{seq}", s.room(http.StatusNoContent, s.eraseMessage))
	router.Post(roomsPath+"/{id}/typing", s.room(http.StatusNoContent, s.typing))
	router.Post(roomsPath+"/{id}/read", s.room(http.StatusNoContent, s.read))
	router.Post(roomsPath+"/{id}/presence", s.room(http.StatusNoContent, s.presence))
	router.Get(roomsPath+"/{id}/users", s.room(http.StatusOK, s.roomUsers))
	router.Get(roomsPath+"/{id}/stats", s.room(http.StatusOK, s.roomStats))
	router.Get(roomsPath+"/{id}/stream", s.serve(s.roomStream))
	router.Options(uploadsPath, s.serve(s.uploadOptions))
	router.Options(uploadsPath+"/{id}", s.serve(s.uploadOptions))
	s.legacy(router)
	router.Route("/v1", s.legacy)
	router.Get("/healthz/live", s.serve(s.live))
	router.Get("/healthz/ready", s.serve(s.ready))
	router.Get("/"+openAPIName, s.serve(s.openAPI))
	if s.Dev {
		router.Get("/", s.serve(s.page))
		router.Get("/static/{file}", s.serve(s.asset))
	}
	return router, nil
}

// allowedMethods are those that any path has, beside OPTIONS.
var allowedMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
}

func (s *Server) notFound(http.ResponseWriter, *http.Request) error {
	return problem(http.StatusNotFound, "there is nothing here")
}

// notAllowed names the methods that the path has (RFC 9110, 15.5.6).
func (s *Server) notAllowed(routes chi.Routes) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		for _, method := range allowedMethods {
			if method != http.MethodHead && routes.Match(chi.NewRouteContext(), method, r.URL.Path) {
				w.Header().Add("Allow", method)
				if method == http.MethodGet {
					w.Header().Add("Allow", http.MethodHead)
				}
			}
		}
		if strings.HasPrefix(r.URL.Path, uploadsPath) {
			dialectOf(r).greet(w.Header())
		}
		return problem(http.StatusMethodNotAllowed, "%s is not a method of this path", r.Method)
	}
}

// Returned are the connections of polls that were answered, for the server that Routes is the handler of: it serves them
// beside its own listener.
func (s *Server) Returned() net.Listener { return s.returned }

// Close ends what Routes has started; no stream may be open any more.
func (s *Server) Close() {
	_ = s.returned.Close()
	s.sockets.close()
}

// AdminRoutes is the admin listener: figures for Prometheus, and profiles for whoever sits on this machine.
func (s *Server) AdminRoutes() http.Handler {
	router := chi.NewRouter()
	router.Use(s.identify, s.recoverPanics)
	router.NotFound(s.serve(s.notFound))
	router.Handle("/metrics", promhttp.HandlerFor(s.Registry, promhttp.HandlerOpts{}))
	router.Group(func(router chi.Router) {
		router.Use(s.loopbackOnly, s.ownHostOnly)
		router.HandleFunc("/debug/pprof/*", pprof.Index)
		router.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		router.HandleFunc("/debug/pprof/profile", pprof.Profile)
		router.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		router.HandleFunc("/debug/pprof/trace", pprof.Trace)
	})
	return router
}
