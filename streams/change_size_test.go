package streams_test

import (
	"fmt"
	"sync"
	"testing"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// TestLargeRoomsAtOnce makes rooms of many members at once. None of the transactions, for which all others wait, has many more
// events than one of them has.
func TestLargeRoomsAtOnce(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	l := open(t, database, streams.Options{})
	members := make([]string, 600)
	for i := range members {
		members[i] = fmt.Sprint("user", i)
	}
	var making sync.WaitGroup
	for i := range 12 {
		making.Go(func() {
			change := store.NewCreateRoom(store.Actor{Org: "1", User: "owner"}, store.NewRoom{ID: fmt.Sprint("r", i), Name: "r", Members: members})
			if _, err := l.appender.Change(t.Context(), change); err != nil {
				t.Error(err)
			}
		})
	}
	making.Wait()
	if most := count(t, database, `select max(n) from (select count(*) as n from sluice.events group by xmin::text) c`); most > 1000 {
		t.Errorf("a transaction has %d events", most)
	}
}
