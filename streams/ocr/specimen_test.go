package ocr

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	xdraw "golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/f64"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// pen writes on paper.
type pen struct {
	paper *image.Gray
	font  *opentype.Font
	face  font.Face
	size  int
}

func newPen(t testing.TB, paper *image.Gray, ttf []byte, size int) *pen {
	t.Helper()
	parsed, err := opentype.Parse(ttf)
	if err != nil {
		t.Fatal(err)
	}
	made, err := opentype.NewFace(parsed, &opentype.FaceOptions{Size: float64(size), DPI: 72, Hinting: font.HintingFull})
	if err != nil {
		t.Fatal(err)
	}
	return &pen{paper, parsed, made, size}
}

var ink = image.NewUniform(color.Gray{Y: 20})

// write sets a line. The font's zero has a stroke through it, as no document's has: a narrow O takes its place.
func (p *pen) write(t testing.TB, x, y int, text string) {
	t.Helper()
	writer := font.Drawer{Dst: p.paper, Src: ink, Face: p.face, Dot: fixed.P(x, y)}
	for i, part := range strings.Split(text, "0") {
		if i > 0 {
			advance, _ := p.face.GlyphAdvance('0')
			p.zero(t, writer.Dot, advance)
			writer.Dot.X += advance
		}
		writer.DrawString(part)
	}
}

func (p *pen) zero(t testing.TB, dot fixed.Point26_6, advance fixed.Int26_6) {
	t.Helper()
	var buffer sfnt.Buffer
	index, err := p.font.GlyphIndex(&buffer, 'O')
	if err != nil {
		t.Fatal(err)
	}
	segments, err := p.font.LoadGlyph(&buffer, index, fixed.I(p.size), nil)
	if err != nil {
		t.Fatal(err)
	}
	wide, _ := p.face.GlyphAdvance('O')
	squeeze := min(0.8, float32(advance)/float32(wide))
	at := func(q fixed.Point26_6) (x, y float32) {
		return (float32(q.X)-float32(wide)/2)/64*squeeze + float32(advance)/128, float32(q.Y)/64 + float32(p.size)
	}
	outline := vector.NewRasterizer(p.size, 2*p.size)
	for _, s := range segments {
		x, y := at(s.Args[0])
		switch s.Op {
		case sfnt.SegmentOpMoveTo:
			outline.MoveTo(x, y)
		case sfnt.SegmentOpLineTo:
			outline.LineTo(x, y)
		default: // the outlines of TrueType are quadratic
			endX, endY := at(s.Args[1])
			outline.QuadTo(x, y, endX, endY)
		}
	}
	corner := image.Pt(dot.X.Round(), dot.Y.Round()-p.size)
	outline.Draw(p.paper, image.Rectangle{corner, corner.Add(image.Pt(p.size, 2*p.size))}, ink, image.Point{})
}

// page writes lines of text, black on nearly white. Lines that begin with a tab are set in the typewriter face, as
// machine-readable zones are.
func page(t testing.TB, lines ...string) *image.Gray {
	t.Helper()
	paper := image.NewGray(image.Rect(0, 0, 1040, 60+48*len(lines)))
	draw.Draw(paper, paper.Bounds(), image.NewUniform(color.Gray{Y: 245}), image.Point{}, draw.Src)
	regular, mono := newPen(t, paper, goregular.TTF, 30), newPen(t, paper, gomono.TTF, 34)
	for i, line := range lines {
		if zone, is := strings.CutPrefix(line, "\t"); is {
			mono.write(t, 60, 70+48*i, zone)
		} else {
			regular.write(t, 60, 70+48*i, line)
		}
	}
	return paper
}

// turned rotates by degrees, clockwise, onto a sheet that is large enough.
func turned(picture *image.Gray, degrees float64) *image.Gray {
	sin, cos := math.Sincos(degrees * math.Pi / 180)
	w, h := float64(picture.Rect.Dx()), float64(picture.Rect.Dy())
	width, height := math.Abs(w*cos)+math.Abs(h*sin), math.Abs(w*sin)+math.Abs(h*cos)
	// The library is quick with this kind alone.
	sheet := image.NewRGBA(image.Rect(0, 0, int(math.Round(width)), int(math.Round(height))))
	draw.Draw(sheet, sheet.Bounds(), image.NewUniform(color.Gray{Y: 245}), image.Point{}, draw.Src)
	matrix := f64.Aff3{cos, -sin, width/2 - cos*w/2 + sin*h/2, sin, cos, height/2 - sin*w/2 - cos*h/2}
	xdraw.ApproxBiLinear.Transform(sheet, matrix, picture, picture.Bounds(), draw.Src, nil)
	made := image.NewGray(sheet.Rect)
	for i := range made.Pix {
		made.Pix[i] = sheet.Pix[4*i]
	}
	return made
}

// noisy adds grain to a picture, and a shade from left to right.
func noisy(picture *image.Gray) *image.Gray {
	dice := rand.New(rand.NewPCG(1, 2))
	made := image.NewGray(picture.Bounds())
	for i, value := range picture.Pix {
		shade := 50 * float64(i%picture.Stride) / float64(picture.Stride)
		made.Pix[i] = uint8(max(0, min(255, float64(value)-shade+dice.NormFloat64()*22)))
		if dice.IntN(400) == 0 {
			made.Pix[i] = 0
		}
	}
	return made
}

func asPNG(t testing.TB, picture image.Image) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&out, picture); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func saved(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
