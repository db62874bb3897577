package handlers

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// TestPublishRate lets a subject publish so often a second and no more, whichever of its tokens it uses and however many
// requests come at once; another subject is not disturbed, and what is refused is not in the log.
func TestPublishRate(t *testing.T) {
	t.Parallel()
	d := openDoor(t, func(d *door) { d.server.PublishRate = 3 })
	began := time.Now()
	var group sync.WaitGroup
	var mu sync.Mutex
	taken, refused := 0, 0
	for i := range 60 {
		group.Go(func() {
			token := ofSubject(t, "1", "greedy", time.Duration(i+1)*time.Minute)
			got := d.publish(token, fmt.Sprintf(`{"service":"finance","type":"t","id":"greedy-%d"}`, i))
			mu.Lock()
			defer mu.Unlock()
			switch got.status {
			case http.StatusCreated:
				taken++
			case http.StatusTooManyRequests:
				refused++
				if wait, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || wait != 1 {
					t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
				}
			default:
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
	group.Wait()
	if most := 3 + 3*int(time.Since(began)/time.Second+1); taken < 3 || taken > most || refused != 60-taken {
		t.Errorf("%d were taken and %d refused in %v", taken, refused, time.Since(began))
	}
	for _, other := range []string{ofSubject(t, "1", "modest", time.Minute), ofSubject(t, "2", "greedy", time.Minute)} {
		if got := d.publish(other, `{"service":"finance","type":"t"}`); got.status != http.StatusCreated {
			t.Errorf("another subject: %d %s", got.status, got.body)
		}
	}
	if events := d.logOf("1"); len(events) != taken+1 {
		t.Errorf("the log has %d events", len(events))
	}
	token := ofSubject(t, "1", "greedy", time.Hour)
	eventually(t, patience, "there is no room again", func() bool {
		return d.publish(token, `{"service":"finance","type":"t"}`).status == http.StatusCreated
	})
}

// ofSubject mints a token of its own: no other one has its end.
func ofSubject(t *testing.T, org, user string, lives time.Duration) string {
	t.Helper()
	token, err := MintToken([]byte(testSecret), Claims{Org: org, User: user, Scope: "publish", Expires: time.Now().Add(lives)})
	if err != nil {
		t.Fatal(err)
	}
	return token
}
