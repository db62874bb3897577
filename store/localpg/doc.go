// Package localpg runs a private Postgres as a child process: the database of an instance that was given none.
//
// The cluster lives under the data directory, is as durable as Postgres is by default, and listens on a Unix socket
// only. It is stopped last and cleanly. When the instance was killed, its Postgres ends with it; one that lives on all
// the same is stopped and replaced at the next start. A lock keeps two instances from one data directory.
package localpg
