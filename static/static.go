// Package static holds the pages that Sluice serves, embedded.
package static

import "embed"

// Files are the page of dev mode and what it needs; nothing comes from elsewhere.
//
//go:embed *.html *.css *.js
var Files embed.FS
