// Package handlers is what lives as long as a request: it reads what clients say, checks it, and hands it to the streams
// or the log. Its wire structs stay here, so that renaming a column changes no answer.
package handlers
