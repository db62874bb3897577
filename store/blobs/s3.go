package blobs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

// partBytes is how large the parts of a multipart upload are, the last one aside: R2 wants them equal, and S3 no smaller than
// 5 MiB.
const partBytes = 8 << 20

// S3 keeps segments as objects {prefix}/{upload}/{start}-{epoch}, and signs of instances in {prefix}/.instances/.
//
// What was committed lies in parts of a multipart upload and, as far as it does not fill one, in tail objects beside it
// ({key}.tail/{offset}-{length}). Their list is the Mark of a Commit: S3 remembers none by itself, so the upload's row holds each,
// and by the row's epoch it is decided whose counts. The next Commit and Seal may only come once the row holds the last one.
//
// Seal and Inherit make one object of them, or none where the segment is empty, and whoever does it again finds it. A zombie may
// still write parts, tails, and even that object; but whatever bears a segment's name begins with the bytes that were
// committed, so an extent's size is where it ends. Open reads sealed segments only.
//
// A segment that is written holds up to 8 MiB in memory.
type S3 struct {
	client *s3.Client
	bucket string
	prefix string // "", or with a slash at its end
	name   string
	part   int // partBytes, but in tests

	patience time.Duration // s3Patience, but in tests
}

var _ Store = (*S3)(nil)

// OpenS3 opens the store that a URL names: s3://bucket/prefix?endpoint=https://…&region=…, the prefix and both parameters being
// optional. Credentials, and the region where it is not given, come from where the AWS SDK looks for them: the environment, its files,
// the machine's role. With an endpoint, buckets are named in the path, and the region is us-east-1 unless it is said.
func OpenS3(ctx context.Context, where string) (*S3, error) {
	u, err := url.Parse(where)
	if err != nil {
		return nil, errors.New("the store's URL cannot be read") // err would repeat it, with what may be secret
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("the store's URL is not like s3://bucket/prefix?endpoint=https://…&region=…; credentials do not belong in it")
	}
	endpoint, region := query.Get("endpoint"), query.Get("region")
	query.Del("endpoint")
	query.Del("region")
	if len(query) > 0 {
		return nil, fmt.Errorf("the store's URL has parameters that are not known: %q", slices.Sorted(maps.Keys(query)))
	}
	store := &S3{bucket: u.Host, prefix: strings.Trim(u.Path, "/"), part: partBytes, patience: s3Patience}
	store.name = "s3://" + path.Join(store.bucket, store.prefix)
	if store.prefix != "" {
		store.prefix += "/"
	}
	if endpoint != "" {
		e, err := url.Parse(endpoint)
		if err != nil || e.Scheme != "http" && e.Scheme != "https" || e.Host == "" || e.User != nil {
			return nil, errors.New("the endpoint of the store is not like https://host, without credentials")
		}
		store.name += "?endpoint=" + endpoint
	}
	settings, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, err
	}
	store.client = s3.NewFromConfig(settings, func(o *s3.Options) {
		// Stores other than Amazon's do not know the checksums that the SDK adds unasked.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		if endpoint != "" {
			o.BaseEndpoint, o.UsePathStyle = &endpoint, true
			o.Region = cmp.Or(o.Region, "us-east-1")
		}
		o.Region = cmp.Or(region, o.Region)
	})
	return store, nil
}

// key names an object of an upload.
func (s *S3) key(upload string, start, epoch int64) string {
	return s.prefix + upload + "/" + segmentName(start, epoch)
}

func (s *S3) put(ctx context.Context, key string, body []byte) error {
	_, err := s.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &s.bucket, Key: &key, Body: bytes.NewReader(body)})
	return err
}

// get opens length bytes of an object; a missing one is ErrShort. There may be fewer bytes.
func (s *S3) get(ctx context.Context, key string, from, length int64) (io.ReadCloser, error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &s.bucket, Key: &key, Range: aws.String(fmt.Sprintf("bytes=%d-%d", from, from+length-1)),
	})
	if failedWith(err, "NoSuchKey", "InvalidRange") {
		return nil, ErrShort
	}
	if err != nil {
		return nil, err
	}
	return out.Body, nil
}

// size is that of an object; -1: there is none.
func (s *S3) size(ctx context.Context, key string) (int64, error) {
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key})
	if failedWith(err, "NotFound", "NoSuchKey") {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	return aws.ToInt64(out.ContentLength), nil
}

// failedWith says whether the store has answered with one of the codes.
func failedWith(err error, codes ...string) bool {
	var answer smithy.APIError
	return errors.As(err, &answer) && slices.Contains(codes, answer.ErrorCode())
}

// eachObject visits the objects below a prefix.
func (s *S3) eachObject(ctx context.Context, prefix string, visit func(types.Object) error) error {
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, object := range page.Contents {
			if err := visit(object); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachMultipart visits the multipart uploads below a prefix that were neither completed nor aborted.
func (s *S3) eachMultipart(ctx context.Context, prefix string, visit func(types.MultipartUpload) error) error {
	pages := s3.NewListMultipartUploadsPaginator(s.client, &s3.ListMultipartUploadsInput{Bucket: &s.bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if failedWith(err, "NoSuchUpload") {
			return nil // what some stores say where there is none
		}
		if err != nil {
			return err
		}
		for _, multipart := range page.Uploads {
			if err := visit(multipart); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteObjects deletes what lies below a prefix, one by one: deleting many at once wants checksums that not all stores know.
func (s *S3) deleteObjects(ctx context.Context, prefix string) error {
	return s.eachObject(ctx, prefix, func(object types.Object) error {
		_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: object.Key})
		return err
	})
}

// abort aborts a multipart upload, if it is there.
func (s *S3) abort(ctx context.Context, multipart types.MultipartUpload) error {
	_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
		Bucket: &s.bucket, Key: multipart.Key, UploadId: multipart.UploadId,
	})
	if failedWith(err, "NoSuchUpload") {
		return nil
	}
	return err
}

// Create implements Store.
func (s *S3) Create(ctx context.Context, upload string, start, epoch int64) (Segment, error) {
	if err := checkSegment(upload, start, epoch); err != nil {
		return nil, err
	}
	key := s.key(upload, start, epoch)
	switch size, err := s.size(ctx, key); {
	case err != nil:
		return nil, err
	case size >= 0:
		return nil, ErrFenced // it was sealed, or inherited
	}
	return &s3Segment{store: s, key: key}, nil
}

// Inherit implements Store. There are no notes.
func (s *S3) Inherit(ctx context.Context, upload string, extent Extent) (Extent, []Note, error) {
	if err := checkSegment(upload, extent.Start, extent.Epoch); err != nil {
		return extent, nil, err
	}
	m, err := readMark(extent.Mark)
	if err != nil {
		return extent, nil, err
	}
	key := s.key(upload, extent.Start, extent.Epoch)
	err = s.finish(ctx, key, extent.Size, m, func() ([]byte, error) { return s.readTails(ctx, key, m) })
	if err != nil {
		return extent, nil, err
	}
	extent.Mark = nil
	return extent, nil, nil
}

// Sync implements Store: what S3 has answered to survives.
func (s *S3) Sync(_ context.Context, upload string, _ []Extent) error { return checkUpload(upload) }

// Open implements Store, for segments that are sealed.
func (s *S3) Open(ctx context.Context, upload string, extents []Extent, from, length int64) (io.ReadCloser, error) {
	if err := checkUpload(upload); err != nil {
		return nil, err
	}
	return newReader(extents, from, length, func(extent Extent, from, length int64) (io.ReadCloser, error) {
		return s.get(ctx, s.key(upload, extent.Start, extent.Epoch), from, length)
	})
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, upload string) error {
	if err := checkUpload(upload); err != nil {
		return err
	}
	prefix := s.prefix + upload + "/"
	// Multipart uploads come first: none of them can become an object afterwards.
	err := s.eachMultipart(ctx, prefix, func(multipart types.MultipartUpload) error { return s.abort(ctx, multipart) })
	if err != nil {
		return err
	}
	return s.deleteObjects(ctx, prefix)
}

// Uploads implements Store.
func (s *S3) Uploads(ctx context.Context, visit func(upload string, changed time.Time) error) error {
	found := map[string]time.Time{}
	see := func(key *string, changed *time.Time) error {
		upload, _, _ := strings.Cut(strings.TrimPrefix(aws.ToString(key), s.prefix), "/")
		if at := aws.ToTime(changed); checkUpload(upload) == nil && !at.Before(found[upload]) {
			found[upload] = at
		}
		return nil
	}
	err := s.eachObject(ctx, s.prefix, func(object types.Object) error { return see(object.Key, object.LastModified) })
	if err != nil {
		return err
	}
	err = s.eachMultipart(ctx, s.prefix, func(multipart types.MultipartUpload) error { return see(multipart.Key, multipart.Initiated) })
	if err != nil {
		return err
	}
	for upload, changed := range found {
		if err := visit(upload, changed); err != nil {
			return err
		}
	}
	return nil
}

// sign names the object that says that an instance is here.
func (s *S3) sign(instance string) (string, error) {
	return s.prefix + instances + "/" + instance, checkInstance(instance)
}

// Announce implements Store.
func (s *S3) Announce(ctx context.Context, instance string) error {
	key, err := s.sign(instance)
	if err != nil {
		return err
	}
	return s.put(ctx, key, nil)
}

// Sees implements Store.
func (s *S3) Sees(ctx context.Context, instance string) error {
	key, err := s.sign(instance)
	if err != nil {
		return err
	}
	size, err := s.size(ctx, key)
	if err == nil && size < 0 {
		err = fmt.Errorf("%s is not where instance %s keeps its uploads: name the same bucket, prefix and endpoint to both", s, instance)
	}
	return err
}

// Forget implements Store.
func (s *S3) Forget(ctx context.Context, instance string) error {
	key, err := s.sign(instance)
	if err != nil {
		return err
	}
	_, err = s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &key})
	return err
}

// Remembers implements Store.
func (s *S3) Remembers() bool { return false }

// Rereads implements Store.
func (s *S3) Rereads() bool { return false }

// SegmentBytes implements Store: a Mark lists the parts of its segment, and every Commit writes one to the row.
func (s *S3) SegmentBytes() int64 { return 64 * int64(s.part) }

// String implements Store.
func (s *S3) String() string { return s.name }
