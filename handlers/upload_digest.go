package handlers

import (
	"crypto"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/dunglas/httpsfv"

	"sluice/streams"
)

// tusAlgorithms are those of Upload-Checksum, as Tus-Checksum-Algorithm names them.
var tusAlgorithms = map[string]crypto.Hash{"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha512": crypto.SHA512, "md5": crypto.MD5}

// fieldAlgorithm is an algorithm of RFC 9530, by its name there.
type fieldAlgorithm struct {
	name string
	hash crypto.Hash
}

// contentAlgorithms are those of Content-Digest, the preferred one first: it is the one by which repetitions are known. Of a whole
// upload sha-256 alone is kept. The insecure ones of RFC 9530 are not taken.
var contentAlgorithms = []fieldAlgorithm{{"sha-256", crypto.SHA256}, {"sha-512", crypto.SHA512}}

// contentDigest reads Content-Digest: what this body must have (RFC 9530, 2).
func contentDigest(header http.Header) (*streams.Expected, error) {
	return digestField(header, "Content-Digest", contentAlgorithms)
}

// wholeDigest reads Repr-Digest: the SHA-256 that the whole upload must have (RFC 9530, 3), or nil.
func wholeDigest(header http.Header) ([]byte, error) {
	expected, err := digestField(header, "Repr-Digest", contentAlgorithms[:1])
	if expected == nil {
		return nil, err
	}
	return expected.Sum, nil
}

// digestField reads a dictionary of digests. Of several the most preferred one is taken; those that nobody knows are left
// alone while another one is known, as RFC 9530 has it, but every one that is known must be well formed.
func digestField(header http.Header, field string, known []fieldAlgorithm) (*streams.Expected, error) {
	values := header.Values(field)
	if len(values) == 0 {
		return nil, nil
	}
	dictionary, err := httpsfv.UnmarshalDictionary(values)
	if err != nil || len(dictionary.Names()) == 0 {
		return nil, digestInvalid(field, "a dictionary such as sha-256=:…: is expected")
	}
	var expected *streams.Expected
	for _, algorithm := range known {
		member, given := dictionary.Get(algorithm.name)
		if !given {
			continue
		}
		item, _ := member.(httpsfv.Item)
		sum, is := item.Value.([]byte)
		if !is || len(sum) != algorithm.hash.Size() {
			return nil, digestInvalid(field, "%s is not %d bytes between colons, in base64", algorithm.name, algorithm.hash.Size())
		}
		if expected == nil {
			expected = &streams.Expected{Algorithm: algorithm.hash, Sum: sum}
		}
	}
	if expected == nil {
		names := make([]string, len(known))
		for i, algorithm := range known {
			names[i] = algorithm.name
		}
		p := digestProblem("digest-unsupported-algorithms", "none of the algorithms is one of %s", strings.Join(names, ", "))
		p.Field = field
		return nil, p
	}
	return expected, nil
}

func digestInvalid(field, format string, args ...any) *Problem {
	p := digestProblem("digest-invalid-values", format, args...)
	p.Field = field
	return p
}

// digestProblem makes one of the problems of draft-ietf-httpapi-digest-fields-problem-types. It never tells what digest the bytes have.
func digestProblem(kind, format string, args ...any) *Problem {
	p := typed(kind, format, args...)
	p.Title = map[string]string{
		"digest-mismatched-values":      "Mismatched Digest Values",
		"digest-invalid-values":         "Invalid Digest Values",
		"digest-unsupported-algorithms": "Unsupported Hashing Algorithms",
	}[kind]
	return p
}

// reprDigest writes the digest of a whole upload.
func reprDigest(sum []byte) string {
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum) + ":"
}

// tusChecksum reads Upload-Checksum: an algorithm and a digest in base64 (tus 1.0.0, "Checksum").
func tusChecksum(text string) (*streams.Expected, error) {
	name, encoded, found := strings.Cut(text, " ")
	if !found {
		return nil, invalid("Upload-Checksum", "an algorithm and a digest in base64 are expected")
	}
	algorithm, known := tusAlgorithms[name]
	if !known {
		return nil, invalid("Upload-Checksum", "the algorithm is none of those that Tus-Checksum-Algorithm names")
	}
	sum, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(sum) != algorithm.Size() {
		return nil, invalid("Upload-Checksum", "the digest is not %d bytes in base64", algorithm.Size())
	}
	return &streams.Expected{Algorithm: algorithm, Sum: sum}, nil
}

// trailing is what is asked for a digest that comes behind the body, or nil where none was announced.
func trailing(r *http.Request, field string, read func(http.Header) (*streams.Expected, error)) func() (*streams.Expected, error) {
	if _, announced := r.Trailer[field]; !announced {
		return nil
	}
	return func() (*streams.Expected, error) { return read(r.Trailer) }
}
