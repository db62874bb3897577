package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"sluice/store"
)

// wireMessage is a message as the members of its room see it.
type wireMessage struct {
	Seq         int64   `json:"seq"`
	UserID      string  `json:"userId"`
	DisplayName string  `json:"displayName"`
	Text        string  `json:"text"`
	ClientID    string  `json:"clientId"`
	Time        string  `json:"time"`
	EditedAt    *string `json:"editedAt"` // null: never
	Deleted     bool    `json:"deleted"`
}

func messageResource(m *store.Message) wireMessage {
	wire := wireMessage{
		Seq: m.Seq, UserID: m.User, DisplayName: m.Name, Text: m.Text, ClientID: m.ClientID, Time: m.Time.UTC().Format(wireTime),
		Deleted: m.Deleted,
	}
	if !m.Edited.IsZero() {
		edited := m.Edited.UTC().Format(wireTime)
		wire.EditedAt = &edited
	}
	return wire
}

// spoken reads the text of a message. It is kept as it was sent, whatever markup it may look like.
func spoken(value json.RawMessage) (string, error) {
	text, err := sentence(value, textLimit)
	if err == nil && strings.ContainsRune(text, 0) {
		err = errors.New("it has a NUL, which the database cannot keep")
	}
	return text, err
}

// say sends a message. The same clientId again is answered with the message that it was first sent with.
func (s *Server) say(ctx context.Context, q *roomRequest) (any, error) {
	if err := s.messageAllowance.take(q.by.Org, q.by.User); err != nil {
		return nil, err
	}
	var clientID, words string
	err := q.each(func(name string, value json.RawMessage) (err error) {
		switch name {
		case "clientId":
			clientID, err = named(value)
		case "text":
			words, err = spoken(value)
		default:
			err = errNoField
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case clientID == "":
		return nil, required("clientId")
	case words == "":
		return nil, required("text")
	}
	said, err := s.Rooms.Send(ctx, q.by, q.room, clientID, words)
	if err != nil {
		return nil, err
	}
	return messageResource(&said), nil
}

// editMessage is PATCH of a message.
func (s *Server) editMessage(ctx context.Context, q *roomRequest) (any, error) {
	if err := s.messageAllowance.take(q.by.Org, q.by.User); err != nil {
		return nil, err
	}
	words := ""
	err := q.each(func(name string, value json.RawMessage) (err error) {
		if name != "text" {
			return errNoField
		}
		words, err = spoken(value)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case words == "":
		return nil, required("text")
	}
	edited, err := s.Rooms.Edit(ctx, q.by, q.room, q.seq, words)
	if err != nil {
		return nil, err
	}
	return messageResource(&edited), nil
}

// eraseMessage is DELETE of a message: its place stays, its text goes.
func (s *Server) eraseMessage(ctx context.Context, q *roomRequest) (any, error) {
	if err := s.messageAllowance.take(q.by.Org, q.by.User); err != nil {
		return nil, err
	}
	return nil, s.Rooms.Erase(ctx, q.by, q.room, q.seq)
}

// history reads what was said.
func (s *Server) history(ctx context.Context, q *roomRequest) (any, error) {
	of := store.HistoryRange{Limit: historyUsual}
	err := q.each(func(name string, value json.RawMessage) error {
		if string(value) == "null" {
			return nil
		}
		n, err := number(value)
		switch name {
		case "before":
			of.Before = &n
		case "after":
			of.After = &n
		case "limit":
			if of.Limit = int(n); err != nil || n < 1 || n > historyMost {
				err = fmt.Errorf("1 to %d messages are expected", historyMost)
			}
		default:
			err = errNoField
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	part, err := s.Rooms.History(ctx, q.by, q.room, of)
	if err != nil {
		return nil, err
	}
	wire := make([]wireMessage, len(part.Messages))
	for i := range part.Messages {
		wire[i] = messageResource(&part.Messages[i])
	}
	return map[string]any{"messages": wire, "hasMore": part.More}, nil
}
