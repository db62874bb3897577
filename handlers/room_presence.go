package handlers

import (
	"context"
	"encoding/json"
	"errors"

	"sluice/store"
)

// typing says to the others in a room that the caller writes something.
func (s *Server) typing(ctx context.Context, q *roomRequest) (any, error) {
	if err := q.bare(); err != nil {
		return nil, err
	}
	return nil, s.Rooms.Typing(ctx, q.by, q.room)
}

// read sets the caller's read mark, which only goes up.
func (s *Server) read(ctx context.Context, q *roomRequest) (any, error) {
	seq := int64(-1)
	err := q.each(func(name string, value json.RawMessage) (err error) {
		if name != "seq" {
			return errNoField
		}
		seq, err = number(value)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case seq < 0:
		return nil, required("seq")
	}
	return nil, s.Rooms.Read(ctx, q.by, q.room, seq)
}

// presence sets what the caller is shown as in a room while there.
func (s *Server) presence(ctx context.Context, q *roomRequest) (any, error) {
	var status store.Status
	err := q.each(func(name string, value json.RawMessage) error {
		if name != "status" {
			return errNoField
		}
		switch err := json.Unmarshal(value, &status); {
		case err == nil && (status == store.StatusOnline || status == store.StatusAway || status == store.StatusOffline):
			return nil
		}
		return errors.New("online, away or offline is expected")
	})
	switch {
	case err != nil:
		return nil, err
	case status == "":
		return nil, required("status")
	}
	return nil, s.Rooms.SetStatus(ctx, q.by, q.room, status)
}

// wireUser is a member as the others see it.
type wireUser struct {
	wireMember
	Status   store.Status `json:"status"`
	LastSeen *string      `json:"lastSeen"` // null: never
}

// roomUsers is GET …/users.
func (s *Server) roomUsers(ctx context.Context, q *roomRequest) (any, error) {
	users, err := s.Rooms.Users(ctx, q.by, q.room)
	if err != nil {
		return nil, err
	}
	wire := make([]wireUser, len(users))
	for i, one := range users {
		wire[i] = wireUser{wireMember: wireMember{one.User, one.Name}, Status: one.Status}
		if !one.LastSeen.IsZero() {
			seen := one.LastSeen.UTC().Format(wireTime)
			wire[i].LastSeen = &seen
		}
	}
	return map[string]any{"users": wire}, nil
}

// wireStats are the figures of a room as one member sees it.
type wireStats struct {
	ActiveConnections int   `json:"activeConnections"`
	OnlineUsers       int   `json:"onlineUsers"`
	TotalMessages     int64 `json:"totalMessages"`
	UnreadMessages    int64 `json:"unreadMessages"` // the caller's
}

// roomStats is GET …/stats.
func (s *Server) roomStats(ctx context.Context, q *roomRequest) (any, error) {
	stats, err := s.Rooms.Stats(ctx, q.by, q.room)
	if err != nil {
		return nil, err
	}
	return wireStats{stats.Connections, stats.Online, stats.Messages, stats.Unread}, nil
}
