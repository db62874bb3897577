// Package ocr reads a document into text and fields, by Tesseract and Poppler as programs of their own.
//
// What is read comes from strangers. So no decoder but that of an image's header runs in this process; each program has
// limits of memory, time and output, a process group that is killed as a whole, and nothing of our environment. What a
// document is refused for is told by the errors here; all other errors are the machine's, and worth another try.
//
// Fields are suggestions: what a document of a kind usually says, where it was found, with how sure the reading is. They
// are never a proof that the document is genuine.
package ocr
