package streams_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"sluice/store"
	"sluice/store/localpg/pgtest"
	"sluice/streams"
)

// sale is a change that tests make: it takes one piece from a stock, once, and tells of it. Its id makes it idempotent.
type sale struct {
	stock, id string
	spoilt    bool // the draft can never be
}

var errSoldOut = errors.New("nothing is left of the stock")

func (s sale) Key() string { return "stock/" + s.stock }

func (s sale) Apply(ctx context.Context, tx *sqlx.Tx) ([]store.Draft, error) {
	var left int
	if err := tx.GetContext(ctx, &left, `select pieces from stocks where name = $1 for update`, s.stock); err != nil {
		return nil, err
	}
	entered, err := tx.ExecContext(ctx, `insert into sales (id, stock) values ($1, $2) on conflict do nothing`, s.id, s.stock)
	if err != nil {
		return nil, err
	}
	if fresh, err := entered.RowsAffected(); err != nil {
		return nil, err
	} else if fresh > 0 {
		if _, err := tx.ExecContext(ctx, `update stocks set pieces = pieces - 1 where name = $1`, s.stock); err != nil {
			return nil, err
		}
		if left == 0 {
			return nil, fmt.Errorf("%w: %s", errSoldOut, s.stock)
		}
	}
	draft := made("1", s.id)
	draft.IDGiven = true
	if s.spoilt {
		draft.Data = json.RawMessage(`{"a":`)
	}
	return []store.Draft{draft}, nil
}

// stocks gives a database with a stock of each size.
func stocks(t *testing.T, pieces map[string]int) (database string) {
	t.Helper()
	database = pgtest.Database(t)
	var text strings.Builder
	text.WriteString(`create table stocks (name text primary key, pieces int not null);
		create table sales (id text primary key, stock text not null);`)
	for name, count := range pieces {
		fmt.Fprintf(&text, `insert into stocks values ('%s', %d);`, name, count)
	}
	if err := execute(database, text.String()); err != nil {
		t.Fatal(err)
	}
	return database
}

// sold lists the sales of a database, and holds them against its stocks and its log.
func sold(t *testing.T, database string, d *doorway, pieces map[string]int) (ids []string) {
	t.Helper()
	db := sqlx.MustConnect("postgres", database)
	defer db.Close()
	if err := db.Select(&ids, `select id from sales order by id`); err != nil {
		t.Fatal(err)
	}
	for name, count := range pieces {
		var gone, left int
		err := errors.Join(db.Get(&gone, `select count(*) from sales where stock = $1`, name),
			db.Get(&left, `select pieces from stocks where name = $1`, name))
		if err != nil || gone+left != count {
			t.Errorf("of %d pieces of %s %d are sold and %d are left (%v)", count, name, gone, left, err)
		}
	}
	told := slices.DeleteFunc(d.log(t, "1"), func(id string) bool { return !strings.HasPrefix(id, "sale") })
	if slices.Sort(told); !slices.Equal(told, ids) {
		t.Errorf("the log tells of %q, and sold are %q", told, ids)
	}
	return ids
}

// TestFiftyChanges gathers 200 changes: no transaction has more than fifty of them, whatever else it has.
func TestFiftyChanges(t *testing.T) {
	t.Parallel()
	pieces := map[string]int{"a": 1000, "b": 1000}
	database := stocks(t, pieces)
	d := &doorway{gate: make(chan struct{})}
	a, _ := d.appender(t, database)
	all := []*brought{d.first(t, a)}
	for i := range 200 {
		all = append(all, bringChange(a, sale{stock: []string{"a", "b"}[i%2], id: fmt.Sprintf("sale%03d", i)}))
		if i%10 == 0 {
			all = append(all, bring(a, made("1", fmt.Sprint("plain", i))))
		}
	}
	close(d.gate)
	for i, one := range all {
		answer, err := one.result(t)
		if err != nil || len(answer) != 1 || answer[0].Cursor.Seq != int64(i+1) {
			t.Fatalf("item %d is answered with %+v, %v", i, answer, err)
		}
	}
	if got := d.transactions(); !slices.Equal(got, []int{1, 55, 55, 55, 55}) {
		t.Errorf("the transactions had %v items", got)
	}
	if got := sold(t, database, d, pieces); len(got) != 200 {
		t.Errorf("%d sales", len(got))
	}
}

// TestRefusedNeighbours has changes fail in both ways beside others: in Apply, and by a draft that Postgres refuses. Each
// costs itself, the latter after the batch was halved.
func TestRefusedNeighbours(t *testing.T) {
	t.Parallel()
	pieces := map[string]int{"a": 12, "none": 0}
	database := stocks(t, pieces)
	d := &doorway{gate: make(chan struct{})}
	a, _ := d.appender(t, database)
	d.first(t, a)
	want := map[int]error{3: errSoldOut, 8: store.ErrRefused, 9: errSoldOut}
	var all []*brought
	for i := range 12 {
		one := sale{stock: "a", id: fmt.Sprintf("sale%02d", i), spoilt: want[i] == store.ErrRefused}
		if want[i] == errSoldOut {
			one.stock = "none"
		}
		all = append(all, bringChange(a, one), bring(a, made("1", fmt.Sprint("plain", i))))
	}
	close(d.gate)
	for i, one := range all {
		_, err := one.result(t)
		if expected := want[i/2]; i%2 == 0 && !errors.Is(err, expected) || i%2 == 1 && err != nil {
			t.Errorf("item %d: %v", i, err)
		}
	}
	if got := sold(t, database, d, pieces); len(got) != 9 {
		t.Errorf("sold are %q", got)
	}
}

// TestChangeAnswerLost loses the answers of transactions that were committed: the changes are made again, which changes
// nothing, and their publishers are told where their events stand.
func TestChangeAnswerLost(t *testing.T) {
	t.Parallel()
	pieces := map[string]int{"a": 1, "b": 5}
	database := stocks(t, pieces)
	d := &doorway{fail: func(try int) (error, error) {
		if try <= 2 {
			return nil, fmt.Errorf("%w: the answer was lost", store.ErrUnavailable)
		}
		return nil, nil
	}}
	a, _ := d.appender(t, database)
	for i, stock := range []string{"a", "b"} {
		answer, err := bringChange(a, sale{stock: stock, id: "sale of " + stock}).result(t)
		if err != nil || len(answer) != 1 || answer[0].Cursor.Seq != int64(i+1) {
			t.Fatalf("%+v, %v", answer, err)
		}
	}
	if _, err := bringChange(a, sale{stock: "a", id: "sale more"}).result(t); !errors.Is(err, errSoldOut) {
		t.Error(err)
	}
	if got := d.transactions(); len(got) != 5 {
		t.Errorf("%d transactions", len(got))
	}
	sold(t, database, d, pieces)
}

// TestConnectionsCutWhileChanging cuts all connections to Postgres again and again while changes are made. Whatever was lost
// on the way, what was answered was made and told once, and what was made was told.
func TestConnectionsCutWhileChanging(t *testing.T) {
	t.Parallel()
	pieces := map[string]int{"a": 1000, "b": 30, "c": 1000}
	database := stocks(t, pieces)
	link := pgtest.NewLink(t, database)
	var cutting sync.WaitGroup
	d := &doorway{fail: func(try int) (error, error) {
		if try%3 != 0 { // the third has a chance, so that nobody has to wait for too long
			cutting.Go(func() {
				<-time.After(mathrand.N(8 * time.Millisecond)) // before, within, or after the commit
				link.Cut()
			})
		}
		return nil, nil
	}}
	a, registry := d.appender(t, link.URL)
	var publishing sync.WaitGroup
	answered := make([][]string, 8)
	for p := range answered {
		publishing.Go(func() {
			for i := range 20 {
				one := sale{stock: []string{"a", "b", "c"}[(p+i)%3], id: fmt.Sprintf("sale%d-%02d", p, i)}
				answer, err := a.Change(context.Background(), one)
				switch {
				case err == nil && len(answer) == 1 && answer[0].ID == one.id:
					answered[p] = append(answered[p], one.id)
				case !errors.Is(err, streams.ErrUnavailable) && !(one.stock == "b" && errors.Is(err, errSoldOut)):
					t.Errorf("%+v: %+v, %v", one, answer, err)
				}
			}
		})
	}
	publishing.Wait()
	cutting.Wait()
	ids := sold(t, database, d, pieces)
	for _, id := range slices.Concat(answered...) {
		if _, found := slices.BinarySearch(ids, id); !found {
			t.Errorf("%s was answered and is not there", id)
		}
	}
	if figures(t, registry)["sluice_append_errors_total"] == 0 {
		t.Error("no transaction was cut")
	}
}
