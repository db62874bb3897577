package ocr

import (
	"context"
	"image"
	"strconv"
	"strings"
)

const (
	// unsure is the mean confidence below which another way of reading a page is tried.
	unsure = 60
	// verbose is how much longer a table of words is than their text.
	verbose = 16
)

// recognize adds a picture as a page. Mode 1 finds out by itself which way is up, and wants some letters for that: cards have
// few. Where the result is poor, mode 6 takes the page for a block of text, which reads what mode 1 held for a picture.
func (r *Reader) recognize(ctx context.Context, dir, path string, d *document) error {
	lines, err := r.words(ctx, dir, path, "1")
	if err != nil {
		return err
	}
	if sum, letters := weigh(lines); letters == 0 || sum/letters < unsure {
		other, err := r.words(ctx, dir, path, "6")
		if err != nil {
			return err
		}
		if more, _ := weigh(other); more > sum {
			lines = other
		}
	}
	d.add(lines)
	return nil
}

func (r *Reader) words(ctx context.Context, dir, path, mode string) ([]line, error) {
	table, err := r.output(ctx, dir, verbose*r.options.Output, "tesseract",
		path, "stdout", "-l", r.options.Languages, "--psm", mode, "-c", "min_characters_to_try=10", "tsv")
	if err != nil {
		return nil, err
	}
	pages := parseTable(string(table))
	if len(pages) == 0 {
		return nil, nil
	}
	return upright(pages[0]), nil
}

// Levels and columns of the tables that tesseract and pdftotext print.
const (
	levelPage, levelLine, levelWord                  = "1", "4", "5"
	columnLeft, columnTop, columnWidth, columnHeight = 6, 7, 8, 9
	columnConfidence, columnText                     = 10, 11
)

// parseTable gives the lines of each page.
func parseTable(table string) [][]line {
	var pages [][]line
	for row := range strings.Lines(table) {
		columns := strings.SplitN(strings.TrimRight(row, "\r\n"), "\t", columnText+1)
		if len(columns) <= columnText {
			continue
		}
		if columns[0] == levelPage {
			pages = append(pages, nil)
		}
		if len(pages) == 0 {
			continue
		}
		page := &pages[len(pages)-1]
		switch text := strings.TrimSpace(columns[columnText]); {
		case columns[0] == levelLine:
			*page = append(*page, nil)
		case columns[0] == levelWord && text != "" && len(*page) > 0:
			at := func(column int) int {
				value, _ := strconv.ParseFloat(columns[column], 64)
				return int(value)
			}
			confidence, _ := strconv.ParseFloat(columns[columnConfidence], 64)
			left, top := at(columnLeft), at(columnTop)
			last := &(*page)[len(*page)-1]
			*last = append(*last, word{text, confidence, image.Rect(left, top, left+at(columnWidth), top+at(columnHeight))})
		}
	}
	for i, page := range pages {
		var full []line
		for _, one := range page {
			if len(one) > 0 {
				full = append(full, one)
			}
		}
		pages[i] = full
	}
	return pages
}

// upright turns the places of words so that lines go from left to right: they are told as they are in the picture, which may
// lie on its side. The order of the words is that of reading always.
func upright(lines []line) []line {
	var course image.Point
	for _, one := range lines {
		course = course.Add(one[len(one)-1].box.Min.Sub(one[0].box.Min))
	}
	turn := func(p image.Point) image.Point { return p }
	switch x, y := max(course.X, -course.X), max(course.Y, -course.Y); {
	case x >= y && course.X < 0:
		turn = func(p image.Point) image.Point { return image.Pt(-p.X, -p.Y) }
	case y > x && course.Y > 0:
		turn = func(p image.Point) image.Point { return image.Pt(p.Y, -p.X) }
	case y > x:
		turn = func(p image.Point) image.Point { return image.Pt(-p.Y, p.X) }
	}
	for _, one := range lines {
		for i, w := range one {
			one[i].box = image.Rectangle{Min: turn(w.box.Min), Max: turn(w.box.Max)}.Canon()
		}
	}
	return lines
}

// weigh sums the confidence of words by their letters.
func weigh(lines []line) (sum, letters float64) {
	for _, one := range lines {
		for _, w := range one {
			sum += w.confidence * float64(len(w.text))
			letters += float64(len(w.text))
		}
	}
	return sum, letters
}
