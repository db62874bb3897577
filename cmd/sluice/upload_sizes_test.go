package main

import "testing"

// TestUploadSizes sends files of all sizes in all dialects: whole, with a pause after which another client goes on, and with the
// connection reset in the middle of a body.
func TestUploadSizes(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	p := s.serve(t)
	for _, speech := range speeches() {
		t.Run(speech.name, func(t *testing.T) {
			for _, size := range []int{1 << 10, 1 << 20, 50 << 20, 100 << 20} {
				for what, way := range map[string]func(*uploader){"whole": sendWhole, "paused": sendPaused, "cut": sendCut} {
					u := newUploader(t, p.url, speech, size)
					u.create()
					way(u)
					u.arrived(s)
					u.delete()
					if t.Failed() {
						t.Fatalf("%s, %d bytes", what, size)
					}
				}
			}
		})
	}
}

func sendWhole(u *uploader) { u.run(len(u.file)) }

// sendPaused stops in the middle; whoever goes on knows the upload's URL and asks for the rest.
func sendPaused(u *uploader) {
	half := len(u.file) / 2
	u.run(half)
	u.disconnect()
	u.connect()
	u.offset = 0
	if err := u.look(); err != nil {
		u.t.Fatalf("%s: after a pause: %v", u.speech.name, err)
	}
	if u.offset != half {
		u.t.Fatalf("%s: after a pause the upload stands at %d, not %d", u.speech.name, u.offset, half)
	}
	u.run(len(u.file))
}

// socketBytes are those of a body that may lie between a client and a server that has not read them yet.
const socketBytes = 16 << 20

// sendCut resets the connection in the middle of the request that brings the file's middle. What came without a digest is
// kept, what came with one is not.
func sendCut(u *uploader) {
	half := len(u.file) / 2
	for u.speech.chunk > 0 && u.next(len(u.file)) <= half {
		u.run(u.next(len(u.file)))
	}
	from := u.offset
	if err := u.send(u.next(len(u.file)), half-from); err == nil {
		u.t.Fatalf("%s: a body was cut, and taken", u.speech.name)
	}
	u.disconnect()
	if err := u.look(); err != nil {
		u.t.Fatalf("%s: after a cut: %v", u.speech.name, err)
	}
	if u.speech.sums && u.offset != from {
		u.t.Fatalf("%s: the upload stands at %d although the bytes from %d on could not be verified", u.speech.name, u.offset, from)
	}
	if !u.speech.sums && u.offset < half-socketBytes {
		u.t.Fatalf("%s: of %d bytes that were sent %d are kept", u.speech.name, half, u.offset)
	}
	u.runOn(len(u.file)) // what was cut may arrive at the server after what came later, and take over from it
}
