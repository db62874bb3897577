package streams_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// TestSharingAfterSilence has an instance be silent until it was taken for dead: when it speaks again, both are ready.
func TestSharingAfterSilence(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	d := openDesk(t, deskOptions{url: url, dir: t.TempDir(), name: "a"})
	ctx, stop := context.WithCancel(context.Background())
	both := []*streams.Sharing{
		streams.NewSharing(d.events, d.disk, "a", d.Options().Log), streams.NewSharing(d.events, d.disk, "b", d.Options().Log),
	}
	for _, one := range both {
		if err := one.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	query(t, url, `update sluice.instances set alive = now() - interval '2 minutes' where id = 'a'`)
	dead, err := d.events.ForgetInstance(ctx, "c")
	if err != nil || len(dead) != 1 {
		t.Fatalf("%q are dead: %v", dead, err)
	}
	if err := d.disk.Forget(ctx, dead[0]); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { stop(); running.Wait() })
	for _, one := range both {
		running.Go(func() { one.Run(ctx) })
	}
	eventually(t, "the sign is not there again, or one is not ready", func() bool {
		return errors.Join(d.disk.Sees(ctx, "a"), both[0].Shared(ctx), both[1].Shared(ctx)) == nil
	})
}
