package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// TestUploadS3 keeps uploads in a store that speaks S3. Requests go to two instances in turn, in all dialects; then the
// one that writes is killed and the other goes on. What comes back is what was sent, from either.
func TestUploadS3(t *testing.T) {
	t.Parallel()
	backend := s3mem.New()
	if err := backend.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	bucket := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(bucket.Close)
	s := newShelf(t)
	in := "--blobs=s3://bucket/up/loads?region=eu-central-1&endpoint=" + bucket.URL
	a, b := s.serve(t, in), s.serve(t, in)
	for _, one := range []*process{a, b} {
		readiness(t, one, "ok")
	}
	at := balance(t, a, b)
	for _, speech := range speeches() {
		large := *speech
		large.chunk = 1 << 20
		u := newUploader(t, at, &large, 4<<20+5)
		u.create()
		u.run(len(u.file))
		u.comesBack(b)
	}
	u := newUploader(t, a.url, onePut(), 20<<20)
	u.create()
	half := u.launch()
	u.sent = len(u.file)
	half.send(u.file[:17<<20])
	until(t, "nothing of the upload is kept", func() bool { return u.elsewhere(b).stands().Offset >= 8<<20 })
	a.kill()
	half.body.Close()
	<-half.done
	n := u.elsewhere(b)
	n.lookAgain()
	if n.offset < 8<<20 {
		t.Fatalf("the upload goes on at %d", n.offset)
	}
	n.runOn(len(n.file))
	n.comesBack(b)
	n.delete()
}

// comesBack looks that the upload is ready, and that an instance gives the file back.
func (u *uploader) comesBack(from *process) {
	u.t.Helper()
	sum := hexSum(u.file)
	if one := u.stands(); one.State != "ready" || one.SHA256 != sum {
		u.t.Fatalf("%s: the upload is %+v, not ready with %s", u.speech.name, one, sum)
	}
	request, err := http.NewRequest(http.MethodGet, from.url+"/v2/uploads/"+u.stands().ID+"/content", nil)
	if err != nil {
		u.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+u.token)
	response, err := u.client.Do(request)
	if err != nil {
		u.t.Fatal(err)
	}
	defer response.Body.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, response.Body); err != nil {
		u.t.Fatal(err)
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != sum {
		u.t.Fatalf("%s: what comes back has another digest: %s", u.speech.name, got)
	}
}

// credentials are what instances sign their requests to the store with; it looks at none.
func credentials() {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CA_BUNDLE": "",
	} {
		os.Setenv(name, value)
	}
}
