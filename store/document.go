package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/jmoiron/sqlx"
)

// ErrClaimLost says that a document is somebody else's to read by now, or nobody's: what was read of it is not wanted.
var ErrClaimLost = errors.New("the document was claimed by another instance, or is gone")

// DocumentClaim is a document that one worker may read for as long as it renews its claim.
type DocumentClaim struct {
	Upload  Upload // whose bytes are to be read
	Number  int64  // counts the claims of the document: what an earlier one brings is refused
	Attempt int    // from 1; those that were given back do not count
}

// ClaimDocument claims the document that has been due for longest, for as long as lease; nil: none is due. One whose
// claim has run out is due again: whoever had it is dead, or has stopped reading (RenewDocument).
func (s *Store) ClaimDocument(ctx context.Context, instance string, lease time.Duration) (*DocumentClaim, error) {
	tx, err := s.db.BeginTxx(ctx, nil) // a claim is counted once, and database/sql would run a single statement again
	if err != nil {
		return nil, classify(err)
	}
	defer tx.Rollback()
	claim := new(DocumentClaim)
	err = tx.QueryRowxContext(ctx, `update sluice.documents set state = 'running', attempts = attempts + 1, claim = claim + 1,
			claimed_by = $1, due = now() + make_interval(secs => $2)
		where upload = (select upload from sluice.documents where state in ('queued', 'running') and due <= now()
			order by due limit 1 for update skip locked)
		returning upload, claim, attempts`, instance, lease.Seconds()).Scan(&claim.Upload.ID, &claim.Number, &claim.Attempt)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, classify(err)
	}
	if claim.Upload, err = findUpload(ctx, tx, claim.Upload.ID); err != nil {
		return nil, classify(err)
	}
	// If we stop after the commit, the claim runs out.
	if err := tx.Commit(); err != nil {
		return nil, classify(err)
	}
	return claim, nil
}

// RenewDocument lengthens a claim: it lasts for lease from when this was called at the earliest. ErrClaimLost.
func (s *Store) RenewDocument(ctx context.Context, claim *DocumentClaim, lease time.Duration) error {
	result, err := s.db.ExecContext(ctx, `update sluice.documents set due = now() + make_interval(secs => $3)
		where upload = $1 and claim = $2 and state = 'running'`, claim.Upload.ID, claim.Number, lease.Seconds())
	if err != nil {
		return classify(err)
	}
	count, err := result.RowsAffected()
	if err == nil && count == 0 {
		err = ErrClaimLost
	}
	return err
}

// ReturnDocument gives a claim up: the document is due again after some time. Spent says that the attempt counts, and reason
// why it has failed. A claim that is lost is no error.
func (s *Store) ReturnDocument(ctx context.Context, claim *DocumentClaim, after time.Duration, spent bool, reason string) error {
	_, err := s.db.ExecContext(ctx, `with returned as (
			update sluice.documents set state = 'queued', claimed_by = '', due = now() + make_interval(secs => $3),
				attempts = case when $4 then attempts else attempts - 1 end, error = $5
			where upload = $1 and claim = $2 and state = 'running' returning due
		) select pg_notify($6, $7) from returned where due <= now()`,
		claim.Upload.ID, claim.Number, after.Seconds(), spent, reason, channel, signalDocument)
	return classify(err)
}

// KnownDocument is what reading the same bytes as the same kind of document has given in the claim's org; nil: nothing yet.
func (s *Store) KnownDocument(ctx context.Context, claim *DocumentClaim) (*Document, error) {
	found := new(Document)
	var fields []byte
	err := s.db.QueryRowxContext(ctx, `select d.state, d.content, d.fields, d.confidence
		from sluice.uploads u join sluice.documents d on d.upload = u.id
		where u.org = $1 and u.sha256 = $2 and u.document_type = $3 and u.state = 'ready' and d.state = 'done' limit 1`,
		claim.Upload.Org, claim.Upload.SHA256, claim.Upload.DocumentType).Scan(&found.State, &found.Text, &fields, &found.Confidence)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	found.Fields = json.RawMessage(fields)
	return found, classify(err)
}

// FinishDocument is the Change by which a document that is claimed becomes done or failed, and its org's log says so. It is
// refused with ErrClaimLost.
type FinishDocument struct {
	Claim    *DocumentClaim
	Document Document // done, or failed with its Error
}

// Key implements Change.
func (f *FinishDocument) Key() string { return "document " + f.Claim.Upload.ID }

// Apply implements Change.
func (f *FinishDocument) Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error) {
	upload, claim, read := f.Claim.Upload, int64(0), f.Document
	err := tx.QueryRowxContext(ctx, `select claim, state from sluice.documents where upload = $1 for update`,
		upload.ID).Scan(&claim, &upload.Document.State)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, ErrClaimLost
	case err != nil:
		return nil, err
	case claim == f.Claim.Number && upload.Document.State == read.State: // our first try had been committed
	case claim != f.Claim.Number, upload.Document.State != "running":
		return nil, ErrClaimLost
	default:
		if read.Fields == nil {
			read.Fields = json.RawMessage(`{}`)
		}
		_, err = tx.ExecContext(ctx, `update sluice.documents set state = $2, finished = now(), content = $3, fields = $4,
			confidence = $5, error = $6 where upload = $1`,
			upload.ID, read.State, read.Text, string(read.Fields), read.Confidence, read.Error)
		if err != nil {
			return nil, err
		}
	}
	upload.Document = read
	if read.State == "done" {
		return []Draft{extractedEvent(&upload)}, nil
	}
	return []Draft{extractFailedEvent(&upload)}, nil
}
