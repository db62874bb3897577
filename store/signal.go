package store

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// Payloads of signals are lines of fields, escaped, with spaces between them: many need few notifications.

// signalLine is how long a line gets where it may be broken.
const signalLine = 1 << 10

var errUnread = errors.New("the payload cannot be read")

func writeFields(fields ...string) string {
	escaped := make([]string, len(fields))
	for i, field := range fields {
		escaped[i] = url.QueryEscape(field)
	}
	return strings.Join(escaped, " ")
}

func readFields(line string) (fields []string, err error) {
	for field := range strings.SplitSeq(line, " ") {
		field, err := url.QueryUnescape(field)
		if err != nil {
			return nil, err
		}
		fields = append(fields, field)
	}
	return fields, nil
}

// signalPayloads packs lines behind a word into payloads that Postgres takes. It is false where they are more than most,
// or a line is too long, and gives those before then.
func signalPayloads(word string, lines []string, most int) (payloads []string, all bool) {
	for _, line := range lines {
		last := len(payloads) - 1
		switch {
		case len(word)+len(line) > hintLimit:
			return payloads, false
		case last >= 0 && len(payloads[last])+1+len(line) <= hintLimit:
			payloads[last] += "\n" + line
		case len(payloads) == most:
			return payloads, false
		default:
			payloads = append(payloads, word+line)
		}
	}
	return payloads, true
}

func notify(ctx context.Context, db sqlx.ExecerContext, payloads []string) error {
	if len(payloads) == 0 {
		return nil
	}
	_, err := db.ExecContext(ctx, `select pg_notify($1, payload) from unnest($2::text[]) payload`, channel, pq.Array(payloads))
	return err
}
