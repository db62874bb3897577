package main

import (
	"regexp"
	"strings"
	"testing"

	"sluice/store/localpg/pgtest"
)

// TestEpochRotate begins a new epoch beside two running instances: readers on both, over both sinks, are reset to
// where the new one begins, and what is published then carries it. A cursor of the old epoch is a reset as well.
func TestEpochRotate(t *testing.T) {
	database := pgtest.Database(t)
	p, q := serve(t, "--database-url="+database), serve(t, "--database-url="+database)
	all := admin(t, "1")
	old := p.mustPublish(all, event("before", ""))[0].Cursor
	var readers []*stream
	for _, on := range []*process{p, q} {
		for _, via := range transports() {
			s := on.open(via, all, "", "")
			s.wait("ack")
			readers = append(readers, s)
		}
	}
	command := sluice("epoch", "rotate")
	command.Env = append(command.Env, "DATABASE_URL="+database)
	out, notes, status := outcome(t, command)
	epoch := strings.TrimSuffix(out, "\n")
	if status != 0 || !regexp.MustCompile(`^[0-9a-z]{1,16}$`).MatchString(epoch) || strings.HasPrefix(old, epoch+"-") {
		t.Fatalf("status %d, %q after %s: %s", status, out, old, notes)
	}
	for _, s := range readers {
		if reset := s.wait("reset"); !strings.Contains(reset.text, `"epoch"`) || !strings.HasPrefix(reset.id, epoch+"-") {
			t.Fatalf("%+v", reset)
		}
	}
	next := p.mustPublish(all, event("after", ""))[0].Cursor
	if !strings.HasPrefix(next, epoch+"-") {
		t.Fatalf("published in %s after %s began", next, epoch)
	}
	for _, s := range readers {
		if got := s.events(1); got[0] != "after" {
			t.Fatalf("%v", got)
		}
	}
	for _, on := range []*process{p, q} {
		if reset := on.open(transports()[0], all, "", old).wait("reset"); !strings.Contains(reset.text, `"epoch"`) {
			t.Fatalf("%+v", reset)
		}
	}
}

// TestEpochRotatePrivate refuses where an instance holds the private Postgres, and works when it has stopped.
func TestEpochRotatePrivate(t *testing.T) {
	data := shortDir(t)
	p := serve(t, "--data="+data)
	old := p.mustPublish(admin(t, "1"), event("before", ""))[0].Cursor
	out, notes, status := outcome(t, sluice("epoch", "rotate", "--data="+data))
	if status != 1 || out != "" || !strings.Contains(notes, "in use by another instance") {
		t.Fatalf("status %d: %s%s", status, out, notes)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	out, notes, status = outcome(t, sluice("epoch", "rotate", "--data="+data))
	if status != 0 || out == "" || strings.HasPrefix(old, strings.TrimSuffix(out, "\n")+"-") {
		t.Fatalf("status %d: %s%s", status, out, notes)
	}
}
