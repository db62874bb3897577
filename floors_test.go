package sluice_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// floor is what the code of one folder may do (docs/architecture.md). Folders are lifetimes: what lives longer knows
// nothing of what lives shorter.
type floor struct {
	imports  []string // of our own packages; "*": all
	http     bool     // may import net/http
	sql      bool     // may import the database's packages
	routines []string // patterns of the files that may start goroutines
}

// floors lists every folder of the module with Go code. A new folder has to be given its floor here.
var floors = map[string]floor{
	"cmd/sluice":           {imports: []string{"*"}, http: true, sql: true, routines: []string{"*"}},
	"cmd/sluice/bench":     {imports: []string{"*"}, http: true, sql: true, routines: []string{"*"}},
	"cmd/sluice/units":     {},
	"cmd/sluice/doctor":    {http: true, routines: []string{"doors.go", "idle.go", "stream.go"}},
	"handlers":             {imports: []string{"streams", "store", "static"}, http: true, routines: []string{"socket*.go", "writer*.go"}},
	"static":               {http: true},
	"streams":              {imports: []string{"store", "store/blobs", "streams/ocr"}, routines: []string{"*"}},
	"store":                {imports: []string{"migrations"}, sql: true},
	"store/blobs":          {},
	"streams/ocr":          {},
	"store/localpg":        {routines: []string{"*"}},
	"store/localpg/pgtest": {imports: []string{"migrations", "store/localpg"}, sql: true, routines: []string{"link.go"}},
	"migrations":           {sql: true},
}

// starts says whether a file may start goroutines.
func (f floor) starts(name string) bool {
	return slices.ContainsFunc(f.routines, func(pattern string) bool {
		matches, err := filepath.Match(pattern, name)
		return err == nil && matches
	})
}

const (
	fileLines     = 500
	functionLines = 80
)

var databasePackages = []string{
	"database/sql", "database/sql/driver", "github.com/jmoiron/sqlx", "github.com/lib/pq", "github.com/pressly/goose/v3",
}

// source is one Go file of the module.
type source struct {
	path   string // from the root, with slashes
	folder string
	test   bool
	set    *token.FileSet
	file   *ast.File
}

// sources parses every Go file of the module. Modules inside it (tools) are not ours to judge.
func sources(t *testing.T) []source {
	t.Helper()
	var list []source
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "tools") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		slashed := filepath.ToSlash(path)
		list = append(list, source{
			path: slashed, folder: filepath.ToSlash(filepath.Dir(path)), test: strings.HasSuffix(name, "_test.go"), set: set, file: file,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 20 {
		t.Fatalf("only %d Go files found: the walk looks in the wrong place", len(list))
	}
	return list
}

// TestFloors reads the imports and the go statements of all code but tests.
func TestFloors(t *testing.T) {
	for _, one := range sources(t) {
		if one.test {
			continue
		}
		allowed, known := floors[one.folder]
		if !known {
			t.Errorf("%s: the folder %s has no floor", one.path, one.folder)
			continue
		}
		for _, wrong := range one.violations(allowed) {
			t.Error(wrong)
		}
	}
}

// violations lists what a file does beyond its floor.
func (s *source) violations(allowed floor) []string {
	var wrong []string
	for _, spec := range s.file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: import %s: %v", s.path, spec.Path.Value, err))
			continue
		}
		own, isOwn := strings.CutPrefix(path, "sluice/")
		switch {
		case isOwn && !slices.Contains(allowed.imports, "*") && !slices.Contains(allowed.imports, own):
			wrong = append(wrong, fmt.Sprintf("%s imports %s, which is not below it", s.path, path))
		case strings.HasPrefix(path+"/", "net/http/") && !allowed.http:
			wrong = append(wrong, fmt.Sprintf("%s imports %s: HTTP ends in handlers", s.path, path))
		case slices.Contains(databasePackages, path) && !allowed.sql:
			wrong = append(wrong, fmt.Sprintf("%s imports %s: SQL stays in store", s.path, path))
		}
	}
	if allowed.starts(filepath.Base(s.path)) {
		return wrong
	}
	ast.Inspect(s.file, func(node ast.Node) bool {
		starts := false
		switch node := node.(type) {
		case *ast.GoStmt:
			starts = true
		case *ast.CallExpr: // sync.WaitGroup.Go and its like
			selector, is := node.Fun.(*ast.SelectorExpr)
			starts = is && selector.Sel.Name == "Go"
		}
		if starts {
			wrong = append(wrong, fmt.Sprintf("%s starts a goroutine", s.set.Position(node.Pos())))
		}
		return true
	})
	return wrong
}

// TestFloorsAreSeen gives the rules code that breaks each of them, for a check that finds nothing proves nothing.
func TestFloorsAreSeen(t *testing.T) {
	for _, one := range []struct {
		folder, text string
		count        int
	}{
		{"store", `package store; import "sluice/streams"`, 1},
		{"store", `package store; import "net/http"`, 1},
		{"streams", `package streams; import _ "net/http/httptest"`, 1},
		{"streams", `package streams; import _ "github.com/lib/pq"`, 1},
		{"handlers", `package handlers; import "database/sql"; import "sluice/migrations"`, 2},
		{"store", `package store; func f() { go f() }`, 1},
		{"handlers", `package handlers; func f() { group.Go(f) }`, 1},
		{"streams", `package streams; import "sluice/store"; func f() { go f() }`, 0},
		{"cmd/sluice", `package main; import "sluice/handlers"; import "net/http"; func f() { go f() }`, 0},
	} {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, "made-up.go", one.text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		s := source{path: one.folder + "/made-up.go", folder: one.folder, set: set, file: file}
		if wrong := s.violations(floors[one.folder]); len(wrong) != one.count {
			t.Errorf("%s: found %q, expected %d", one.text, wrong, one.count)
		}
	}
	for name, may := range map[string]bool{"socket.go": true, "socket_linux.go": true, "writer.go": true, "sse.go": false, "stream.go": false} {
		if got := floors["handlers"].starts(name); got != may {
			t.Errorf("%s may start goroutines: %v, expected %v", name, got, may)
		}
	}
}

// TestSizes keeps files and functions at a size that is read in one go.
func TestSizes(t *testing.T) {
	for _, one := range sources(t) {
		if lines := one.set.File(one.file.Pos()).LineCount(); lines > fileLines+1 {
			t.Errorf("%s has %d lines: split it", one.path, lines-1)
		}
		ast.Inspect(one.file, func(node ast.Node) bool {
			function, is := node.(*ast.FuncDecl)
			if !is {
				return true
			}
			lines := one.set.Position(function.End()).Line - one.set.Position(function.Pos()).Line + 1
			if lines > functionLines {
				t.Errorf("%s: %s has %d lines: split it", one.set.Position(function.Pos()), function.Name.Name, lines)
			}
			return true
		})
	}
}
