package store

import (
	"context"
	"strings"
)

// Typing says that a user types in a room.
type Typing struct {
	Org, Room, User string
	Name            string // "": none is known
}

// typingNotifications is how many one flush sends at most.
const typingNotifications = 8

// TellTyping notifies all instances in few notifications. What does not fit is left out: it is of this moment only.
func (s *Store) TellTyping(ctx context.Context, list []Typing) error {
	lines := make([]string, len(list))
	for i, one := range list {
		lines[i] = writeFields(one.Org, one.Room, one.User, one.Name)
	}
	payloads, _ := signalPayloads(signalTyping, lines, typingNotifications)
	return classify(notify(ctx, s.db, payloads))
}

// readTyping reads what TellTyping tells.
func readTyping(text string) (list []Typing, err error) {
	for line := range strings.SplitSeq(text, "\n") {
		fields, err := readFields(line)
		if err != nil {
			return nil, err
		}
		if len(fields) != 4 {
			return nil, errUnread
		}
		list = append(list, Typing{fields[0], fields[1], fields[2], fields[3]})
	}
	return list, nil
}
