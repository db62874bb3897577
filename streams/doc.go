// Package streams is what lives as long as the process: the appender that commits what publishers bring, the notifier
// that learns of what others have committed, the hub with a tail for every org that somebody here listens to, the uploads that are
// written here, and the workers that read documents.
//
// A tail holds the newest part of one log, a ring, and its subscribers. A subscriber is a cursor, a filter, an encoder
// and a sink: it has no queue and no goroutine. When the log grows, one page is read for all; each event is framed once
// for each encoding; subscribers with equal filters form a group that is offered the same bytes. Who is slow is
// blocked, misses nothing, and is served from its cursor when it can take more (docs/architecture.md, "The live end").
//
// An upload has one writer among all instances. Here that is a session, which acknowledges chunks by what it has committed to
// the store of bytes; whoever takes over raises the upload's epoch and fences what the session wrote (docs/architecture.md, "Uploads").
package streams
