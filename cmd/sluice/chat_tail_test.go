package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestChatTail follows one of two rooms from the command line: messages are printed, who is there and who types is noted, and
// one connection is enough for all of it.
func TestChatTail(t *testing.T) {
	t.Parallel()
	p := serve(t, shared(t)...)
	place := chatPlace{t, "1", []string{p.url}}
	alice := place.user("alice", "sse and POST").come()
	room := alice.opens("Followed", "ben").ID
	other := alice.opens("Not followed", "ben").ID
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	command := tailCmd{User: "ben", Services: []string{"chat"}, Rooms: []string{room}}
	command.URL, command.JWTSecret = p.url, testSecret
	printed, noted := &logs{}, &logs{}
	tailing, err := command.tailing(printed, noted)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- tailing.run(ctx) }()
	wait := func(what string) {
		t.Helper()
		until(t, "no "+what, func() bool { return strings.Contains(noted.String()+printed.String(), what) })
	}
	wait("ben is online in " + room)
	alice.calls(204, "POST", "/v2/rooms/"+room+"/typing", nil, nil)
	wait("alice types in " + room)
	alice.says(other, "elsewhere")
	alice.says(room, "heard")
	wait(`"text":"heard"`)
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
	if all := printed.String() + noted.String(); strings.Contains(all, "elsewhere") || strings.Count(all, "connected to") != 1 {
		t.Error(all)
	}
}
