package streams

import (
	"github.com/prometheus/client_golang/prometheus"

	"sluice/store"
)

// What woke a tail, for the metric of that name.
const (
	wokenByNotify = "notify"
	wokenByPoll   = "poll"
	wokenByAll    = "wake_all"
)

// Metrics are the process's own figures. All of them, with all their known labels, exist from the start at 0, so that
// a rate over them is right from the first event on.
type Metrics struct {
	Streams   *prometheus.GaugeVec   // open, by transport
	Delivered *prometheus.CounterVec // events times readers, by service and transport
	Latency   prometheus.Histogram   // seconds from an event's commit to its being offered
	Errors    *prometheus.CounterVec // by kind
	Bytes     *prometheus.CounterVec // offered, by transport
	Blocked   prometheus.Gauge       // sinks that wait for their reader
	Pages     prometheus.Counter     // read for readers behind the ring
	WakeLag   prometheus.Histogram   // seconds from the newest event's commit to its being read
	Resets    *prometheus.CounterVec // by reason
	Wakes     *prometheus.CounterVec // of tails, by source

	AppendBatch  prometheus.Histogram // events of one transaction
	Appended     prometheus.Counter   // events
	AppendErrors prometheus.Counter   // transactions

	Relayed       prometheus.Counter // rows of the outbox moved into the log
	Parked        prometheus.Counter // rows of the outbox that the log refused
	OutboxWaiting prometheus.Gauge   // rows that the relay has found and not moved

	Uploads UploadMetrics

	Documents *prometheus.CounterVec // that were claimed, by what has become of them

	sent map[string]prometheus.Counter // of Bytes, by transport
}

// The label values of errors.
const (
	errorRead     = "read"          // a page could not be read
	errorTimeout  = "write_timeout" // a reader without progress was closed
	errorLimit    = "limit"         // a stream was refused or closed for a limit
	errorHole     = "hole"          // a page did not continue what was read
	errorGoneBack = "gone_back"     // a log was shorter than what was read of it
)

// What becomes of a document that was claimed.
const (
	documentDone     = "done"
	documentReused   = "reused"   // the same bytes had been read before
	documentFailed   = "failed"   // for good
	documentRetried  = "retried"  // to be read again later
	documentReturned = "returned" // to be read again, for no fault of its own
	documentLost     = "lost"     // another instance may have it by now
)

// Transports are the known ways out.
var Transports = []string{"sse", "ndjson", "websocket", "poll", "legacy"}

// NewMetrics makes the metrics and registers them.
func NewMetrics(registry prometheus.Registerer, catalogue *store.Catalogue) *Metrics {
	seconds := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "sluice", Name: name, Help: help}
	}
	m := &Metrics{
		Streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "sluice", Name: "active_streams", Help: "Open streams.",
		}, []string{"transport"}),
		Delivered: prometheus.NewCounterVec(counter("events_delivered_total", "Events handed to readers."), []string{"service", "transport"}),
		Latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "sluice", Name: "publish_to_write_seconds", Buckets: seconds,
			Help: "From the commit of an event to its being written to its readers.",
		}),
		Errors: prometheus.NewCounterVec(counter("errors_total", "Errors by kind."), []string{"kind"}),
		Bytes:  prometheus.NewCounterVec(counter("bytes_sent_total", "Bytes handed to readers."), []string{"transport"}),
		Blocked: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "sluice", Name: "blocked_sinks", Help: "Readers that take nothing at the moment.",
		}),
		Pages: prometheus.NewCounter(counter("replay_pages_total", "Pages read for readers behind the ring.")),
		WakeLag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "sluice", Name: "wake_lag_seconds", Buckets: seconds,
			Help: "From the commit of the newest event of a page to its being read here.",
		}),
		Resets: prometheus.NewCounterVec(counter("resets_total", "Positions that could not be replayed."), []string{"reason"}),
		Wakes:  prometheus.NewCounterVec(counter("wakes_total", "Hints that a log has grown."), []string{"source"}),
		AppendBatch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "sluice", Name: "append_batch_events", Help: "Events of one transaction.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000},
		}),
		Appended:     prometheus.NewCounter(counter("events_appended_total", "Events committed by this instance.")),
		AppendErrors: prometheus.NewCounter(counter("append_errors_total", "Transactions that failed and were tried again.")),

		Relayed: prometheus.NewCounter(counter("outbox_relayed_total", "Events published from SQL that this instance moved into the log.")),
		Parked:  prometheus.NewCounter(counter("outbox_parked_total", "Events published from SQL that the log refused: see the table sluice.parked.")),
		OutboxWaiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "sluice", Name: "outbox_waiting", Help: "Events published from SQL, committed, and not in the log yet.",
		}),
	}
	m.Uploads = newUploadMetrics(registry)
	m.Documents = prometheus.NewCounterVec(counter("documents_total", "Documents claimed for OCR, by outcome."), []string{"outcome"})
	for _, outcome := range []string{documentDone, documentReused, documentFailed, documentRetried, documentReturned, documentLost} {
		m.Documents.WithLabelValues(outcome)
	}
	m.sent = map[string]prometheus.Counter{}
	for _, transport := range Transports {
		m.Streams.WithLabelValues(transport)
		m.sent[transport] = m.Bytes.WithLabelValues(transport)
		for _, service := range catalogue.Stored() {
			m.Delivered.WithLabelValues(service, transport)
		}
	}
	for _, kind := range []string{errorRead, errorTimeout, errorLimit, errorHole, errorGoneBack} {
		m.Errors.WithLabelValues(kind)
	}
	for _, reason := range []ResetReason{ResetExpired, ResetEpoch, ResetAhead, ResetMalformed} {
		m.Resets.WithLabelValues(string(reason))
	}
	for _, source := range []string{wokenByNotify, wokenByPoll, wokenByAll} {
		m.Wakes.WithLabelValues(source)
	}
	registry.MustRegister(m.Streams, m.Delivered, m.Latency, m.Errors, m.Bytes, m.Blocked, m.Pages, m.WakeLag,
		m.Resets, m.Wakes, m.AppendBatch, m.Appended, m.AppendErrors, m.Relayed, m.Parked, m.OutboxWaiting,
		m.Documents)
	return m
}

// bytes and delivered are looked up once per payload, not per reader, where it matters.
func (m *Metrics) bytes(transport string) prometheus.Counter { return m.sent[transport] }

// delivered counts the events of one payload for a number of readers.
func (m *Metrics) delivered(entries []*entry, transport string, readers int) {
	for _, e := range entries {
		m.Delivered.WithLabelValues(e.event.Service, transport).Add(float64(readers))
	}
}
