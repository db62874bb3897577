package streams

import (
	"github.com/prometheus/client_golang/prometheus"

	"sluice/store"
)

// UploadMetrics tell of the uploads of this instance.
type UploadMetrics struct {
	Bytes     prometheus.Counter     // committed
	Writing   prometheus.Gauge       // uploads that this instance writes
	Takeovers prometheus.Counter     // of uploads that another instance, or an earlier process, had begun
	Ended     *prometheus.CounterVec // by the state in which they did
	Refused   *prometheus.CounterVec // chunks, by why
}

// Why chunks are refused, as the label value of Refused.
const (
	refusedOffset  = "offset"
	refusedDigest  = "digest"
	refusedSize    = "size"
	refusedYielded = "yielded"
)

func newUploadMetrics(registry prometheus.Registerer) UploadMetrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "sluice", Name: name, Help: help}
	}
	m := UploadMetrics{
		Bytes: prometheus.NewCounter(counter("upload_bytes_total", "Bytes of uploads that this instance committed.")),
		Writing: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "sluice", Name: "uploads_writing", Help: "Uploads that this instance writes.",
		}),
		Takeovers: prometheus.NewCounter(counter("upload_takeovers_total", "Uploads that went on here after another process had begun them.")),
		Ended:     prometheus.NewCounterVec(counter("uploads_ended_total", "Uploads by what has become of them."), []string{"state"}),
		Refused:   prometheus.NewCounterVec(counter("upload_chunks_refused_total", "Chunks that did not count, by why."), []string{"reason"}),
	}
	for _, state := range []store.UploadState{store.UploadReady, store.UploadFailed, store.UploadExpired, store.UploadDeleted} {
		m.Ended.WithLabelValues(string(state))
	}
	for _, reason := range []string{refusedOffset, refusedDigest, refusedSize, refusedYielded} {
		m.Refused.WithLabelValues(reason)
	}
	registry.MustRegister(m.Bytes, m.Writing, m.Takeovers, m.Ended, m.Refused)
	return m
}

// refused counts a chunk that did not count.
func (m *UploadMetrics) refused(err error) {
	switch why := err.(type) {
	case *OffsetError:
		if why.Yielded {
			m.Refused.WithLabelValues(refusedYielded).Inc()
			return
		}
		m.Refused.WithLabelValues(refusedOffset).Inc()
	case *DigestError:
		m.Refused.WithLabelValues(refusedDigest).Inc()
	case *SizeError:
		m.Refused.WithLabelValues(refusedSize).Inc()
	}
}
