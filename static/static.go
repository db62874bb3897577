// Package static holds the pages that Sluice serves, embedded.
package static

import "embed"

// Files are the page of dev mode with what it needs, and the description of the API; nothing comes from elsewhere.
//
//go:embed *.html *.css *.js *.yaml
var Files embed.FS
