package ocr

import (
	"context"
	"fmt"
	"image"
	_ "image/gif"
	_ "image/jpeg"
	_ "image/png"
	"os"

	_ "golang.org/x/image/webp"
)

const typePDF = "application/pdf"

// formats are the images that are read, by their media types.
var formats = map[string]string{"image/jpeg": "jpeg", "image/png": "png", "image/gif": "gif", "image/webp": "webp"}

// readImage adds a picture to the document.
func (r *Reader) readImage(ctx context.Context, dir, path, format string, d *document) error {
	if err := r.measure(path, format); err != nil {
		return err
	}
	return r.recognize(ctx, dir, path, d)
}

// measure reads an image's header, before anybody else sees the file: a few kilobytes may say that they are gigabytes, and
// Tesseract takes a text for a list of files to open.
func (r *Reader) measure(path, format string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	config, is, err := image.DecodeConfig(file)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if is != format {
		return fmt.Errorf("%w: it is %s, not %s", ErrUnreadable, is, format)
	}
	if config.Width <= 0 || config.Height <= 0 {
		return fmt.Errorf("%w: it has no pixels", ErrUnreadable)
	}
	if int64(config.Width)*int64(config.Height) > r.options.Pixels {
		return fmt.Errorf("%w: it has %d×%d pixels", ErrTooLarge, config.Width, config.Height)
	}
	return nil
}
