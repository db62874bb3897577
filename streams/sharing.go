package streams

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"sluice/store"
	"sluice/store/blobs"
)

// sharingEvery is how often an instance says that it lives; the store waits some times as long.
const sharingEvery = time.Second

// Living is the part of the store that knows which instances live; its contract is that of store.Store.
type Living interface {
	KeepInstance(ctx context.Context, instance store.Instance) ([]store.Instance, error)
	ForgetInstance(ctx context.Context, id string) (dead []string, err error)
}

// Sharing sees that all instances that live keep the bytes of uploads in one place. Where two do not, an upload that goes
// on at the other one would not be found: neither may be ready.
type Sharing struct {
	log   Living
	blobs blobs.Store
	self  store.Instance
	to    *slog.Logger

	apart atomic.Pointer[error] // why it is not shared; nil: it is
}

// NewSharing makes what sees to it for one instance.
func NewSharing(log Living, bytes blobs.Store, instance string, to *slog.Logger) *Sharing {
	return &Sharing{log: log, blobs: bytes, self: store.Instance{ID: instance, Blobs: bytes.String()}, to: to}
}

// Start says that the instance lives, and looks at the others.
func (s *Sharing) Start(ctx context.Context) error {
	if err := s.blobs.Announce(ctx, s.self.ID); err != nil {
		return err
	}
	return s.look(ctx)
}

// Shared is a check of readiness.
func (s *Sharing) Shared(context.Context) error {
	if apart := s.apart.Load(); apart != nil {
		return *apart
	}
	return nil
}

// Run goes on saying that the instance lives until ctx ends.
func (s *Sharing) Run(ctx context.Context) {
	ticker := time.NewTicker(sharingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			s.end()
			return
		case <-ticker.C:
		}
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.to.Debug("whether uploads are shared cannot be found out", "err", err)
		}
	}
}

// look compares with every instance that lives.
func (s *Sharing) look(ctx context.Context) error {
	alive, err := s.log.KeepInstance(ctx, s.self)
	if err != nil {
		return err
	}
	var apart error
	for _, other := range alive {
		if other.ID == s.self.ID {
			// Where we were silent for long, another instance has taken us for dead and has removed our sign.
			if s.blobs.Sees(ctx, other.ID) != nil {
				if err := s.blobs.Announce(ctx, other.ID); err != nil {
					return err
				}
			}
			continue
		}
		if err := s.blobs.Sees(ctx, other.ID); err != nil {
			apart = errors.Join(apart, fmt.Errorf("another instance keeps uploads in %s: %w", other.Blobs, err))
		}
	}
	if apart == nil {
		s.apart.Store(nil)
		return nil
	}
	if s.apart.Swap(&apart) == nil {
		s.to.Error("not ready: instances do not share the bytes of uploads", "err", apart)
	}
	return nil
}

// end takes back that the instance lives.
func (s *Sharing) end() {
	ctx, cancel := context.WithTimeout(context.Background(), sharingEvery)
	defer cancel()
	dead, err := s.log.ForgetInstance(ctx, s.self.ID)
	for _, id := range dead {
		err = errors.Join(err, s.blobs.Forget(ctx, id))
	}
	if err != nil {
		s.to.Debug("the sign of this instance stays behind", "err", err)
	}
}
