package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// uploadLease is how long an instance that writes or verifies an upload is waited for once it says nothing more. It is
// for courtesy: what keeps two writers apart is the epoch.
const uploadLease = 1500 * time.Millisecond

// UploadLimits bound what one user may make.
type UploadLimits struct {
	MaxSize int64         // of one upload
	Quota   int64         // bytes that all of a user's uploads hold
	Open    int           // uploads under way
	Expiry  time.Duration // after the last accepted byte
}

// CreateUpload makes an upload that nobody writes yet. What it may grow to counts for its user's quota from now on: its
// size, or where that is not known the most that it may become. ErrUploadCount, ErrUploadQuota. One that joins the same
// parts as another is that one.
func (s *Store) CreateUpload(ctx context.Context, made NewUpload, limits UploadLimits) (Upload, error) {
	upload, err := s.createUpload(ctx, made, limits)
	return upload, classifyUpload(err)
}

func (s *Store) createUpload(ctx context.Context, made NewUpload, limits UploadLimits) (Upload, error) {
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return Upload{}, err
	}
	defer tx.Rollback()
	// Under the lock, and in a statement of its own, so that two creations do not both see the last place.
	if _, err := tx.ExecContext(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 7))`, made.Org+"\x1f"+made.User); err != nil {
		return Upload{}, err
	}
	if made.Kind == UploadJoined { // somebody who asked for the same may have been faster
		upload, err := joinedUpload(ctx, tx, made.Org, made.User, made.Parts)
		if !errors.Is(err, ErrNoUpload) {
			return upload, err
		}
	}
	var open int
	var held int64
	err = tx.QueryRowxContext(ctx, `select count(*) filter (where state in ('uploading', 'verifying')), coalesce(sum(held), 0)
		from sluice.uploads where org = $1 and user_id = $2 and held > 0`, made.Org, made.User).Scan(&open, &held)
	if err != nil {
		return Upload{}, err
	}
	most := min(limits.MaxSize, limits.Quota-held)
	switch {
	case open >= limits.Open:
		return Upload{}, ErrUploadCount
	case most < made.Size, most <= 0 && made.Size < 0:
		return Upload{}, ErrUploadQuota
	case made.Size >= 0:
		most = made.Size
	}
	id := strings.ToLower(rand.Text())
	// What holds no byte counts as one, or the index would not find it as open.
	_, err = tx.ExecContext(ctx, `insert into sluice.uploads (id, org, user_id, property_id, guest_id, filename, claimed, mime_type,
		document_type, metadata, kind, parts, size, byte_limit, held, declared, expires)
		values ($1, $2, $3, $4, $5, $6, $7::text, $7::text, $8, $9, $10, coalesce($11::text[], '{}'), $12, $13::bigint, greatest($13::bigint, 1), $14, now() + make_interval(secs => $15))`,
		id, made.Org, made.User, made.PropertyID, made.GuestID, made.Filename, made.Claimed, made.DocumentType, made.Metadata,
		string(made.Kind), pq.Array(made.Parts), made.Size, most, made.Declared, limits.Expiry.Seconds())
	if err != nil {
		return Upload{}, err
	}
	upload, err := findUpload(ctx, tx, id)
	if err != nil {
		return Upload{}, err
	}
	return upload, tx.Commit()
}

// Upload gives one as it stands, with what reading it has given.
func (s *Store) Upload(ctx context.Context, id string) (Upload, error) {
	rows, err := s.upload.query(ctx, s.db, nil, id)
	upload, err := oneUpload(rows, err)
	return upload, classifyUpload(err)
}

const uploadColumns = `u.id, u.org, u.user_id, u.property_id, u.guest_id, u.filename, u.claimed, u.mime_type, u.document_type,
	u.metadata, u.kind, u.parts, u.size, u.byte_limit, u.position, u.declared, u.sha256, u.state, u.reason, u.rate, u.epoch,
	u.owner, u.lease_until > now() as leased, exists (select from sluice.instances i where i.id = u.owner and i.alive > now()) as lives, u.created, case when isfinite(u.expires) then u.expires end as expires,
	coalesce(d.state, 'none') as document_state, coalesce(d.content, '') as content, coalesce(d.fields, '{}') as fields,
	coalesce(d.confidence, 0) as confidence, coalesce(d.error, '') as document_error`

const uploadFrom = ` from sluice.uploads u left join sluice.documents d on d.upload = u.id `

const uploadSQL = `select ` + uploadColumns + uploadFrom + `where u.id = $1`

func findUpload(ctx context.Context, tx *sqlx.Tx, id string) (Upload, error) {
	rows, err := tx.QueryxContext(ctx, uploadSQL, id)
	return oneUpload(rows, err)
}

// oneUpload reads the only row of uploadColumns that there is.
func oneUpload(rows *sqlx.Rows, err error) (Upload, error) {
	uploads, err := readUploads(rows, err)
	if err == nil && len(uploads) == 0 {
		err = ErrNoUpload
	}
	if err != nil {
		return Upload{}, err
	}
	return uploads[0], nil
}

func readUploads(rows *sqlx.Rows, err error) (uploads []Upload, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var u Upload
		var expires *time.Time
		var fields []byte
		err := rows.Scan(&u.ID, &u.Org, &u.User, &u.PropertyID, &u.GuestID, &u.Filename, &u.Claimed, &u.MimeType, &u.DocumentType,
			&u.Metadata, &u.Kind, pq.Array(&u.Parts), &u.Size, &u.Limit, &u.Offset, &u.Declared, &u.SHA256, &u.State,
			&u.Reason, &u.Rate, &u.Epoch, &u.Owner, &u.Leased, &u.Lives, &u.CreatedAt, &expires, &u.Document.State, &u.Document.Text,
			&fields, &u.Document.Confidence, &u.Document.Error)
		if err != nil {
			return nil, err
		}
		u.Document.Fields = json.RawMessage(fields)
		if expires != nil {
			u.ExpiresAt = expires.UTC()
		}
		u.CreatedAt = u.CreatedAt.UTC()
		uploads = append(uploads, u)
	}
	return uploads, rows.Err()
}

// UploadChunks gives what RecordUpload was given last.
func (s *Store) UploadChunks(ctx context.Context, id string) (chunks []byte, err error) {
	err = s.db.GetContext(ctx, &chunks, `select chunks from sluice.uploads where id = $1`, id)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoUpload
	}
	return chunks, classifyUpload(err)
}

// UploadSegment is where a part of an upload's bytes lies (blobs.Extent).
type UploadSegment struct {
	Start       int64
	Epoch       int64
	Size        int64
	Mark        []byte
	DigestState []byte `db:"digest_state"` // of the whole, at Start
	Sealed      bool
	Synced      bool // by the process that wrote it
}

// ClaimedUpload is an upload as its new writer finds it.
type ClaimedUpload struct {
	Upload
	DigestState []byte // of SHA-256 at Offset; empty at 0
	Chunks      []byte // as RecordUpload was given it
	Segments    []UploadSegment
}

// ClaimUpload makes an instance the writer of an upload that is in the epoch and in the state given, or, for the state
// verifying, whoever verifies it, once the lease of whoever did has ended. ErrUploadMoved where it is not so any more.
//
// From then on everything that an earlier writer records is refused; what it has committed in its open segment, and was
// perhaps acknowledged, is for the caller to find out (blobs.Store.Inherit).
func (s *Store) ClaimUpload(ctx context.Context, id, instance string, epoch int64, state UploadState) (ClaimedUpload, error) {
	claimed, err := s.claimUpload(ctx, id, instance, epoch, state)
	return claimed, classifyUpload(err)
}

func (s *Store) claimUpload(ctx context.Context, id, instance string, epoch int64, state UploadState) (claimed ClaimedUpload, err error) {
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return claimed, err
	}
	defer tx.Rollback()
	err = tx.QueryRowxContext(ctx, `update sluice.uploads set epoch = epoch + 1, owner = $2, lease_until = now() + make_interval(secs => $5)
		where id = $1 and epoch = $3 and state = $4 and (state <> 'verifying' or lease_until < now())
		returning digest_state, chunks`, id, instance, epoch, string(state), uploadLease.Seconds()).Scan(&claimed.DigestState, &claimed.Chunks)
	if errors.Is(err, sql.ErrNoRows) {
		return claimed, ErrUploadMoved
	}
	if err != nil {
		return claimed, err
	}
	rows, err := s.upload.query(ctx, s.db, tx, id)
	if claimed.Upload, err = oneUpload(rows, err); err != nil {
		return claimed, err
	}
	if claimed.Segments, err = segmentsOf(ctx, tx, id); err != nil {
		return claimed, err
	}
	return claimed, tx.Commit()
}

func segmentsOf(ctx context.Context, db sqlx.QueryerContext, id string) (segments []UploadSegment, err error) {
	err = sqlx.SelectContext(ctx, db, &segments, `select start, epoch, size, mark, digest_state, sealed, synced
		from sluice.upload_segments where upload = $1 order by start`, id)
	return segments, err
}

// UploadSegments are where an upload's bytes lie, in order.
func (s *Store) UploadSegments(ctx context.Context, id string) ([]UploadSegment, error) {
	segments, err := segmentsOf(ctx, s.db, id)
	return segments, classifyUpload(err)
}

// UploadRecord is how far its writer has brought an upload.
type UploadRecord struct {
	ID    string
	Epoch int64

	Offset      int64
	Size        int64 // of the whole; -1 while it is not known
	DigestState []byte
	Chunks      []byte
	Declared    []byte
	MimeType    string
	Rate        float64
	Expiry      time.Duration
	State       UploadState // uploading; verifying once all bytes are there

	Segments []UploadSegment // those that are new or have changed
	Cut      bool            // segments that start at Offset or after it, and are not among Segments, are no more
	Release  bool            // nobody writes it from now on
}

// recordSQL is one statement, so that a chunk costs one round trip where every chunk is recorded.
const recordSQL = `with moved as (
		update sluice.uploads set position = $3::bigint, size = $4::bigint, held = case when $4::bigint >= 0 then greatest($4::bigint, 1) else held end,
			byte_limit = case when $4::bigint >= 0 then $4::bigint else byte_limit end, digest_state = $5, chunks = $6, declared = $7,
			mime_type = $8, rate = $9, moved = now(), expires = now() + make_interval(secs => $10), state = $11::text,
			owner = case when $12::boolean then '' else owner end,
			lease_until = case when $12::boolean then '-infinity' else now() + make_interval(secs => $13) end
		where id = $1 and epoch = $2 and state = 'uploading' returning id
	), cut as (
		delete from sluice.upload_segments g using moved where g.upload = moved.id and $14::boolean and g.start >= $3::bigint
			and not g.start = any($15::bigint[])
	), kept as (
		insert into sluice.upload_segments (upload, start, epoch, size, mark, digest_state, sealed, synced)
		select moved.id, c1, c2, c3, c4, c5, c6, c7 from moved,
			unnest($15::bigint[], $16::bigint[], $17::bigint[], $18::bytea[], $19::bytea[], $20::boolean[], $21::boolean[])
			c(c1, c2, c3, c4, c5, c6, c7)
		on conflict (upload, start) do update set epoch = excluded.epoch, size = excluded.size, mark = excluded.mark,
			digest_state = excluded.digest_state, sealed = excluded.sealed, synced = excluded.synced
	) select from moved`

// RecordUpload writes down how far an upload has come, and renews its writer's lease. ErrUploadMoved: there is a newer
// writer, or the upload was deleted or has expired; nothing was written.
func (s *Store) RecordUpload(ctx context.Context, r *UploadRecord) error {
	count := len(r.Segments)
	starts, epochs, sizes := make([]int64, count), make([]int64, count), make([]int64, count)
	marks, states := make([][]byte, count), make([][]byte, count)
	sealed, synced := make([]bool, count), make([]bool, count)
	for i, segment := range r.Segments {
		starts[i], epochs[i], sizes[i] = segment.Start, segment.Epoch, segment.Size
		marks[i], states[i] = some(segment.Mark), some(segment.DigestState)
		sealed[i], synced[i] = segment.Sealed, segment.Synced
	}
	moved := false
	rows, err := s.record.query(ctx, s.db, nil, r.ID, r.Epoch, r.Offset, r.Size, some(r.DigestState), some(r.Chunks), r.Declared, r.MimeType,
		r.Rate, r.Expiry.Seconds(), string(r.State), r.Release, uploadLease.Seconds(), r.Cut, pq.Array(starts), pq.Array(epochs),
		pq.Array(sizes), pq.ByteaArray(marks), pq.ByteaArray(states), pq.BoolArray(sealed), pq.BoolArray(synced))
	if err == nil {
		for rows.Next() {
			moved = true
		}
		err = errors.Join(rows.Err(), rows.Close())
	}
	if err == nil && !moved {
		// It may also be our own record of before whose answer was lost, where that one ended the writing.
		if err = s.recorded(ctx, r); err == nil {
			return nil
		}
	}
	return classifyUpload(err)
}

// recorded says whether a record that changes the state, or releases the upload, is in force already.
func (s *Store) recorded(ctx context.Context, r *UploadRecord) error {
	if r.State == UploadUploading {
		return ErrUploadMoved
	}
	var same bool
	err := s.db.GetContext(ctx, &same, `select exists (select from sluice.uploads where id = $1 and epoch = $2 and state = $3 and position = $4)`,
		r.ID, r.Epoch, string(r.State), r.Offset)
	if err == nil && !same {
		err = ErrUploadMoved
	}
	return err
}

// some makes nil bytes empty ones: no column of ours is null by accident.
func some(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// RenewUpload lengthens the lease of whoever verifies an upload. ErrUploadMoved where somebody else does by now.
func (s *Store) RenewUpload(ctx context.Context, id string, epoch int64) error {
	result, err := s.db.ExecContext(ctx, `update sluice.uploads set lease_until = now() + make_interval(secs => $3)
		where id = $1 and epoch = $2 and state = 'verifying'`, id, epoch, uploadLease.Seconds())
	if err == nil {
		var count int64
		if count, err = result.RowsAffected(); err == nil && count == 0 {
			err = ErrUploadMoved
		}
	}
	return classifyUpload(err)
}

// WantUpload asks whoever else writes an upload to let go of it for an instance. It is a hint.
func (s *Store) WantUpload(ctx context.Context, id, instance string) error {
	_, err := s.db.ExecContext(ctx, `select pg_notify($1, $2)`, channel, signalUpload+id+" "+instance)
	return classifyUpload(err)
}

// classifyUpload leaves what this part of the store says itself as it is.
func classifyUpload(err error) error {
	for _, ours := range []error{ErrNoUpload, ErrUploadMoved, ErrUploadCount, ErrUploadQuota} {
		if errors.Is(err, ours) {
			return err
		}
	}
	return classify(err)
}
