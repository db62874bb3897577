package ocr

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

const (
	resolution = 300 // dots per inch of a page that is rasterised
	points     = 72  // per inch
	// fewLetters is how much text a page may have that is a picture for all that: scanners print their names on it.
	fewLetters = 50
	// verdictSize is what pdfinfo may print: some lines, and two for each page.
	verdictSize = 1 << 20
)

var (
	pageCount = regexp.MustCompile(`(?m)^Pages:\s+(\d+)\s*$`)
	pageSize  = regexp.MustCompile(`(?m)^Page\s+(\d+) size:\s+([0-9.e+]+) x ([0-9.e+]+) pts`)
)

// readPDF adds a document's pages: their text where they have some, else what is seen on them.
func (r *Reader) readPDF(ctx context.Context, dir, path string, d *document) error {
	sizes, err := r.pageSizes(ctx, dir, path)
	if err != nil {
		return err
	}
	last := strconv.Itoa(len(sizes))
	table, err := r.output(ctx, dir, verbose*r.options.Output, "pdftotext", "-tsv", "-enc", "UTF-8", "-l", last, path, "-")
	if err != nil {
		return err
	}
	texts := parseTable(string(table))
	for i, pixels := range sizes {
		var text []line
		if i < len(texts) {
			text = texts[i]
		}
		if _, letters := weigh(text); letters >= fewLetters {
			d.add(text)
			continue
		}
		if pixels > float64(r.options.Pixels) {
			return fmt.Errorf("%w: page %d has %.0f pixels", ErrTooLarge, i+1, pixels)
		}
		if err := r.seePage(ctx, dir, path, i+1, d); err != nil {
			return err
		}
	}
	return nil
}

// pageSizes gives the pixels of each page.
func (r *Reader) pageSizes(ctx context.Context, dir, path string) ([]float64, error) {
	printed, err := r.output(ctx, dir, verdictSize, "pdfinfo", "-f", "1", "-l", strconv.Itoa(r.options.Pages), path)
	if err != nil {
		return nil, err
	}
	count := pageCount.FindSubmatch(printed)
	if count == nil {
		return nil, fmt.Errorf("%w: it has no pages", ErrUnreadable)
	}
	pages, err := strconv.Atoi(string(count[1]))
	if err != nil || pages > r.options.Pages {
		return nil, fmt.Errorf("%w: it has %s pages", ErrTooLarge, count[1])
	}
	var sizes []float64
	for _, found := range pageSize.FindAllSubmatch(printed, -1) {
		width, _ := strconv.ParseFloat(string(found[2]), 64)
		height, _ := strconv.ParseFloat(string(found[3]), 64)
		if width*height <= 0 {
			return nil, fmt.Errorf("%w: there is no page %s", ErrUnreadable, found[1])
		}
		sizes = append(sizes, width*height*resolution*resolution/points/points)
	}
	if len(sizes) != pages || pages == 0 {
		return nil, fmt.Errorf("%w: of its %d pages %d are there", ErrUnreadable, pages, len(sizes))
	}
	return sizes, nil
}

// seePage rasterises a page, as much of it as its size tells of, and adds what is read there.
func (r *Reader) seePage(ctx context.Context, dir, path string, page int, d *document) error {
	name, number := filepath.Join(dir, "page.png"), strconv.Itoa(page)
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	err = r.run(ctx, dir, file, 2*r.options.Pixels, "pdftoppm", "-r", strconv.Itoa(resolution), "-gray", "-png", "-cropbox", "-f", number, "-l", number, path)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return r.readImage(ctx, dir, name, "png", d)
}
