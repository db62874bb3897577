package store

import (
	"context"
	"time"
)

// instanceLease is how long an instance counts as living after its last word.
const instanceLease = 5 * time.Second

// Instance is one of those that live.
type Instance struct {
	ID    string
	Blobs string // where it keeps the bytes of uploads
}

// KeepInstance says that an instance lives, and answers all that do, itself included.
func (s *Store) KeepInstance(ctx context.Context, instance Instance) (alive []Instance, err error) {
	_, err = s.db.ExecContext(ctx, `insert into sluice.instances (id, blobs, alive) values ($1, $2, now() + make_interval(secs => $3))
		on conflict (id) do update set blobs = excluded.blobs, alive = excluded.alive`, instance.ID, instance.Blobs, instanceLease.Seconds())
	if err == nil {
		err = s.db.SelectContext(ctx, &alive, `select id, blobs from sluice.instances where alive > now() order by id`)
	}
	return alive, classify(err)
}

// ForgetInstance says that an instance has ended, and forgets those that have not said so.
func (s *Store) ForgetInstance(ctx context.Context, id string) (dead []string, err error) {
	err = s.db.SelectContext(ctx, &dead, `delete from sluice.instances where id = $1 or alive < now() - interval '1 minute' returning id`, id)
	return dead, classify(err)
}
