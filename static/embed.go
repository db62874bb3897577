// Package static is what browsers are given: the page of dev mode, without a build and without anything from elsewhere.
package static

import "embed"

// Files are the page, its style and its modules, by their names in this directory.
//
//go:embed page.html page.css page.js traffic.js
var Files embed.FS
