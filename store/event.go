package store

import (
	"encoding/json"
	"time"
)

// Event is one immutable record of an org's log. Its position is (Org, Seq); with the log's epoch that is its cursor.
//
// The optional labels are empty where the publisher gave none: an empty string and an absent field are the same.
type Event struct {
	Org        string
	Seq        int64
	Time       time.Time // at commit, in microseconds, strictly rising with Seq
	ID         string    // 1–128 of [A-Za-z0-9._:-], unique within the org while it is retained
	Service    string
	Type       string
	PropertyID string // empty: the event concerns the whole org
	EntityType string
	EntityID   string
	UserID     string
	// Audience, where it is not empty, is the one user who is given the event, beside those who are given everything. It
	// is not on the wire.
	Audience string
	Data     json.RawMessage // one JSON object without white space between its tokens
}

// Draft is an event that is to be appended: one without a position or a time. Its id is set.
type Draft struct {
	Event
	IDGiven bool // the publisher chose the id: the log may hold it already
	Tried   bool // an earlier try failed without saying whether it committed
}

// Appended tells where an event stands after Append: at a new position, or, where Duplicate is set, at that of the
// first event with this id.
type Appended struct {
	ID        string
	Cursor    Cursor
	Duplicate bool
}
