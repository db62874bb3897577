package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ended is a frame after which a stream is of no use to a measurement.
type ended struct {
	kind kind
	data string
}

func (e *ended) Error() string {
	switch e.kind {
	case kindReset:
		return "a reset came: events were lost to this reader: " + e.data
	case kindDrain:
		return "the server drains"
	}
	return "the server ended it: " + told(e.data)
}

// told reads what a problem says for people.
func told(text string) string {
	var problem struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}
	// A body may come with its chunk's size around it.
	if from, to := strings.IndexByte(text, '{'), strings.LastIndexByte(text, '}'); from >= 0 && to > from {
		text = text[from : to+1]
	}
	if json.Unmarshal([]byte(text), &problem) != nil || problem.Status == 0 {
		return text
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s: %s", problem.Status, problem.Title, problem.Detail))
}

// explainStream says which reader failed, and what to do where that is known.
func explainStream(index int, err error) error {
	hint := ""
	var refusal *refused
	text := err.Error()
	if errors.As(err, &refusal) {
		text = strings.TrimPrefix(refusal.status, "HTTP/1.1 ") + ": " + told(refusal.body)
	}
	switch {
	case strings.Contains(text, "401 "):
		hint = "; is the secret the server's? name its directory with --data, or give a --token"
	case strings.Contains(text, "403 "):
		hint = "; the token must be of an ADMIN, with the scope publish"
	case strings.Contains(text, "429 "), strings.Contains(strings.ToLower(text), "limit"):
		hint = "; start the server with --max-streams-per-user 0 --max-streams-per-org 0, or take fewer readers"
	case strings.Contains(text, "closed it"), strings.Contains(text, "broke"):
		hint = "; its log tells why (a reader without progress? too few descriptors there? a restart?)"
	}
	return fmt.Errorf("reader %d: %s%s", index, text, hint)
}
