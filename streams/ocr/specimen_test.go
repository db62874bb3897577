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
	"testing"

	xdraw "golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/f64"
	"golang.org/x/image/math/fixed"
)

func face(t testing.TB, ttf []byte, size float64) font.Face {
	t.Helper()
	parsed, err := opentype.Parse(ttf)
	if err != nil {
		t.Fatal(err)
	}
	made, err := opentype.NewFace(parsed, &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingFull})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// page draws lines of text, black on nearly white. Lines that begin with a tab are set in the typewriter face, as
// machine-readable zones are.
func page(t testing.TB, lines ...string) *image.Gray {
	t.Helper()
	paper := image.NewGray(image.Rect(0, 0, 1040, 60+48*len(lines)))
	draw.Draw(paper, paper.Bounds(), image.NewUniform(color.Gray{Y: 245}), image.Point{}, draw.Src)
	pen := font.Drawer{Dst: paper, Src: image.NewUniform(color.Gray{Y: 20})}
	regular, mono := face(t, goregular.TTF, 30), face(t, gomono.TTF, 34)
	y := 70
	for _, line := range lines {
		pen.Face = regular
		if line != "" && line[0] == '\t' {
			pen.Face, line = mono, line[1:]
		}
		pen.Dot = fixed.P(60, y)
		pen.DrawString(line)
		y += 48
	}
	return paper
}

// turned rotates by degrees, clockwise, onto a sheet that is large enough.
func turned(picture *image.Gray, degrees float64) *image.Gray {
	sin, cos := math.Sincos(degrees * math.Pi / 180)
	w, h := float64(picture.Rect.Dx()), float64(picture.Rect.Dy())
	width, height := math.Abs(w*cos)+math.Abs(h*sin), math.Abs(w*sin)+math.Abs(h*cos)
	sheet := image.NewGray(image.Rect(0, 0, int(math.Round(width)), int(math.Round(height))))
	draw.Draw(sheet, sheet.Bounds(), image.NewUniform(color.Gray{Y: 245}), image.Point{}, draw.Src)
	matrix := f64.Aff3{cos, -sin, width/2 - cos*w/2 + sin*h/2, sin, cos, height/2 - sin*w/2 - cos*h/2}
	xdraw.BiLinear.Transform(sheet, matrix, picture, picture.Bounds(), draw.Src, nil)
	return sheet
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
	if err := png.Encode(&out, picture); err != nil {
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
