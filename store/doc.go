// Package store keeps what outlives a process: the log of every org in Postgres, its epoch, the catalogue of
// services, uploads and documents, and the notifications that tell other instances to look. The bytes of uploads are in store/blobs.
//
// Everything that is SQL lives here, and nothing here knows of HTTP. The package promises (docs/architecture.md,
// "The log"):
//
//   - sequences are gapless per org and become visible in order, because the org's row in logs is locked from
//     before the look-up until the commit;
//   - an appended event is durable when Append returns without an error;
//   - a page is one snapshot: its events, its head and its floor belong together.
package store
