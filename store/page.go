package store

// Page is one snapshot of a part of an org's log: consecutive events after the position that was asked for.
//
// Events is never nil in a page with rows; it is unfiltered, in the order of Seq, and without a gap. Where its first event is
// not the one after the position asked for, or it is empty while Head is beyond that position, what lies between cannot be
// replayed any more.
type Page struct {
	Epoch  string  // the log's incarnation at the time of the snapshot
	Head   int64   // the newest position; 0 for an org without events
	Floor  int64   // everything up to here was trimmed: the oldest retained event is Floor+1
	Events []Event // at most the limit that was asked for
}
