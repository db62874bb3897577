package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"
)

// ErrNoTicket says that a ticket opens nothing (any more).
var ErrNoTicket = errors.New("the ticket opens nothing")

// ticketPatience is how long after its making a ticket may be used for the first time.
const ticketPatience = 30 * time.Second

// TicketUse is one use of a ticket: a later one takes the place of those before.
type TicketUse struct {
	Ticket string // its digest in hexadecimal; "": none
	Number int64  // from 1
}

// KeepTicket keeps a ticket by its digest, with whom it stands for in JSON, until the token ends that asked for it. It
// returns until when the ticket has to be used first.
func (s *Store) KeepTicket(ctx context.Context, digest, caller []byte, ends time.Time) (until time.Time, err error) {
	// Should database/sql run it again after a lost answer, it finds its own row.
	err = s.db.GetContext(ctx, &until, `insert into sluice.tickets (digest, caller, ends, until)
		values ($1, $2, $3, least($3, now() + make_interval(secs => $4)))
		on conflict (digest) do update set ends = excluded.ends returning until`, digest, caller, ends, ticketPatience.Seconds())
	return until, classify(err)
}

// UseTicket opens a ticket: any number of times, each taking the place of the one before, or, with once, a single time and
// nothing else. All instances are told of a later use. What is not good is ErrNoTicket.
func (s *Store) UseTicket(ctx context.Context, digest []byte, once bool) (caller []byte, use TicketUse, err error) {
	tx, err := s.db.BeginTxx(ctx, nil) // a use is counted once, and database/sql would run a single statement again
	if err != nil {
		return nil, use, classify(err)
	}
	defer tx.Rollback()
	use.Ticket = hex.EncodeToString(digest)
	err = tx.QueryRowxContext(ctx, `update sluice.tickets set uses = uses + 1, until = ends, spent = $2
		where digest = $1 and until > now() and not spent and (uses = 0 or not $2)
		returning caller, uses`, digest, once).Scan(&caller, &use.Number)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, use, ErrNoTicket
	}
	if err == nil && use.Number > 1 {
		_, err = tx.ExecContext(ctx, `select pg_notify($1, $2)`, channel, signalTicket+use.Ticket+" "+strconv.FormatInt(use.Number, 10))
	}
	if err == nil {
		err = tx.Commit()
	}
	return caller, use, classify(err)
}

// readTicketUse reads what UseTicket tells.
func readTicketUse(text string) (TicketUse, error) {
	ticket, number, _ := strings.Cut(text, " ")
	n, err := strconv.ParseInt(number, 10, 64)
	return TicketUse{ticket, n}, err
}

// TicketUses gives the newest uses of tickets.
func (s *Store) TicketUses(ctx context.Context, tickets []string) (uses []TicketUse, err error) {
	err = s.db.SelectContext(ctx, &uses, `select encode(digest, 'hex') as ticket, uses as number from sluice.tickets
		where digest = any(select decode(one, 'hex') from unnest($1::text[]) one)`, pq.Array(tickets))
	return uses, classify(err)
}

// ForgetTickets deletes those that open nothing any more.
func (s *Store) ForgetTickets(ctx context.Context) error {
	_, err := s.db.ExecContext(ctx, `delete from sluice.tickets where until < now()`)
	return classify(err)
}
