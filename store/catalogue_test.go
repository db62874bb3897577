package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestDefaultCatalogue holds the embedded services against docs/protocol.md.
func TestDefaultCatalogue(t *testing.T) {
	c := DefaultCatalogue()
	sources := []string{"finance", "guest", "staff", "tasks", "properties", "users", "branding"}
	derived := map[string][]string{
		"dashboard": {"tasks", "staff", "properties", "users", "finance"},
		"analytics": {"tasks", "staff", "properties", "users", "finance"},
		"reports":   {"finance"},
	}
	if got, want := c.Stored(), append(slices.Clone(sources), "chat", "documents"); !slices.Equal(got, want) {
		t.Errorf("stored are %v, not %v", got, want)
	}
	if got := len(c.Names()); got != 12 {
		t.Errorf("%d names", got)
	}
	if usual := c.Usual(); len(usual) != 10 || slices.Contains(usual, "chat") || slices.Contains(usual, "documents") {
		t.Errorf("usual are %v", usual)
	}
	var seen uint64
	for _, name := range c.Stored() {
		bit := c.Bit(name)
		if bit == 0 || bit&(bit-1) != 0 || seen&bit != 0 {
			t.Errorf("%s has the bit %b", name, bit)
		}
		if mask, known := c.Mask(name); !known || mask != bit {
			t.Errorf("%s means %b, its bit is %b", name, mask, bit)
		}
		if err := c.Publishable(name); (err == nil) != slices.Contains(sources, name) {
			t.Errorf("publishing to %s: %v", name, err)
		}
		seen |= bit
	}
	for name, of := range derived {
		var want uint64
		for _, source := range of {
			want |= c.Bit(source)
		}
		if mask, known := c.Mask(name); !known || mask != want || c.Bit(name) != 0 || c.Publishable(name) == nil {
			t.Errorf("%s means %b, not %b; its bit is %b", name, mask, want, c.Bit(name))
		}
	}
	if mask, known := c.Mask("fun"); known || mask != 0 || c.Bit("fun") != 0 || c.Publishable("fun") == nil {
		t.Error("there is a service fun")
	}
}

// TestParseCatalogue names what is wrong with a document, and takes the largest.
func TestParseCatalogue(t *testing.T) {
	named := func(count int) string {
		var list []string
		for i := range count {
			list = append(list, fmt.Sprintf(`{"name":"s%d"}`, i))
		}
		return strings.Join(list, ",")
	}
	for _, c := range []struct{ name, services, says string }{
		{"64 services", named(64), ""},
		{"64 services and derived ones", named(64) + `,{"name":"a","sources":["s63"]},{"name":"b","sources":["s0","s1"]}`, ""},
		{"derived before its sources", `{"name":"a","sources":["b"]},{"name":"b"}`, ""},
		{"65 services", named(65), "more than 64"},
		{"none", ``, "no service stores"},
		{"own ones alone are some", `{"name":"a","own":true}`, ""},
		{"twice", `{"name":"a"},{"name":"b"},{"name":"a"}`, `"a" is there twice`},
		{"twice, derived", `{"name":"b"},{"name":"a","sources":["b"]},{"name":"a","sources":["b"]}`, `"a" is there twice`},
		{"no name", `{}`, "called like"},
		{"capitals", `{"name":"A"}`, "called like"},
		{"long", `{"name":"` + strings.Repeat("a", 65) + `"}`, "called like"},
		{"line", `{"name":"a\n"}`, "called like"},
		{"frame", `{"name":"ping"}`, "like a frame"},
		{"of EventSource", `{"name":"message"}`, "like a frame"},
		{"derived from nothing known", `{"name":"a"},{"name":"b","sources":["c"]}`, "stores nothing"},
		{"derived from a derived one", `{"name":"a"},{"name":"b","sources":["a"]},{"name":"c","sources":["b"]}`, "stores nothing"},
		{"derived and own", `{"name":"a"},{"name":"b","sources":["a"],"own":true}`, "derived and"},
		{"unknown field", `{"name":"a","source":"b"}`, "source"},
		{"no list", `{"name":"a","sources":"b"}`, "sources"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseCatalogue([]byte(`{"services":[` + c.services + `]}`))
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
	for _, text := range []string{``, `[]`, `{"services":[{"name":"a"}]} {}`, `{"services":[{"name":"a"}]}]`} {
		if _, err := ParseCatalogue([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// TestCatalogueDocument is equal for equal catalogues only, however they are written.
func TestCatalogueDocument(t *testing.T) {
	parse := func(text string) string {
		c, err := ParseCatalogue([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c.Document()
	}
	plain := parse(`{"services":[{"name":"a"},{"name":"b","sources":["a"]}]}`)
	if spaced := parse("{ \"services\": [ {\"name\": \"a\"},\n {\"sources\": [\"a\"], \"name\": \"b\"} ] }"); spaced != plain {
		t.Errorf("%s is not %s", spaced, plain)
	}
	if other := parse(`{"services":[{"name":"a"},{"name":"b"}]}`); other == plain {
		t.Errorf("both are %s", other)
	}
}
