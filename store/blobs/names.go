package blobs

import (
	"fmt"
	"regexp"
)

// Names that stores take: they become parts of paths, so nothing else passes.
var (
	uploadPattern   = regexp.MustCompile(`^[0-9a-z]{26,32}$`)
	instancePattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,127}$`)
)

// instances is where signs of instances are left; no upload can have this name.
const instances = ".instances"

func checkUpload(upload string) error {
	if !uploadPattern.MatchString(upload) {
		return fmt.Errorf("%q is not the id of an upload", upload)
	}
	return nil
}

func checkInstance(instance string) error {
	if !instancePattern.MatchString(instance) {
		return fmt.Errorf("%q is not the id of an instance", instance)
	}
	return nil
}

// segmentName names a segment within its upload.
func segmentName(start, epoch int64) string { return fmt.Sprintf("%d-%d", start, epoch) }

// checkSegment looks at everything that names a segment.
func checkSegment(upload string, start, epoch int64) error {
	if start < 0 || epoch < 0 {
		return fmt.Errorf("no segment starts at %d in epoch %d", start, epoch)
	}
	return checkUpload(upload)
}
