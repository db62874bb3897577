package handlers

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"
)

// contract is the document that clients rely on; what it hears of is held against it.
type contract struct {
	t   testing.TB
	doc *openapi3.T

	mu    sync.Mutex
	heard map[string]bool // guarded by mu: "GET /healthz/live 200"
}

func readContract(t testing.TB) *contract {
	t.Helper()
	text, _ := openAPIDocument()
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatalf("%s: %v", openAPIName, err)
	}
	return &contract{t: t, doc: doc, heard: map[string]bool{}}
}

// fits says what a JSON text has against a schema, by JSON Schema 2020-12, as OpenAPI 3.1 has it.
func fits(schema *openapi3.SchemaRef, text []byte) error {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return err
	}
	return schema.Value.VisitJSON(value, openapi3.EnableJSONSchema2020(), openapi3.MultiErrors())
}

// schema is a component by its name.
func (c *contract) schema(name string) *openapi3.SchemaRef {
	c.t.Helper()
	schema := c.doc.Components.Schemas[name]
	if schema == nil {
		c.t.Fatalf("%s has no schema %s", openAPIName, name)
	}
	return schema
}

// ownHead says whether the document describes what HEAD answers by itself; elsewhere it is answered as GET is.
func ownHead(item *openapi3.PathItem) bool {
	return item != nil && item.Head != nil && item.Head.Responses.Value("default") == nil
}

// keeps holds the answer of an operation against the document.
func (c *contract) keeps(method, path string, r reply) {
	c.t.Helper()
	path, _, _ = strings.Cut(path, "?")
	item, asked := c.doc.Paths.Value(path), method
	if method == http.MethodHead && !ownHead(item) {
		asked = http.MethodGet
	}
	status := strconv.Itoa(r.status)
	where := method + " " + path + " " + status
	if item == nil || item.GetOperation(asked) == nil {
		c.t.Errorf("%s does not describe %s %s", openAPIName, asked, path)
		return
	}
	response := item.GetOperation(asked).Responses.Value(status)
	if response == nil {
		c.t.Errorf("%s: add the response to %s: %s", where, openAPIName, r.body)
		return
	}
	c.mu.Lock()
	c.heard[asked+" "+path+" "+status] = true
	c.mu.Unlock()
	if method == http.MethodHead && r.body != "" {
		c.t.Errorf("%s has a body: %s", where, r.body)
	}
	c.answers(where, response.Value, r, method != http.MethodHead)
}

// ofHTTP are the headers that HTTP and CORS are responsible for, so the document leaves them out.
var ofHTTP = []string{"Connection", "Content-Length", "Content-Type", "Date", "Transfer-Encoding", "Vary"}

// answers holds headers, type, and, where there has to be one, the body against the description of a response.
func (c *contract) answers(where string, response *openapi3.Response, r reply, whole bool) {
	c.t.Helper()
	described := map[string]*openapi3.HeaderRef{}
	for name, header := range response.Headers {
		described[http.CanonicalHeaderKey(name)] = header
	}
	for name, values := range r.header {
		header := described[name]
		if header == nil {
			if !slices.Contains(ofHTTP, name) {
				c.t.Errorf("%s: add the header %s to the response in %s", where, name, openAPIName)
			}
			continue
		}
		for _, value := range values {
			text, _ := json.Marshal(value)
			if err := fits(header.Value.Schema, text); err != nil {
				c.t.Errorf("%s: %s: %v", where, name, err)
			}
		}
	}
	for name, header := range described {
		if header.Value.Required && r.header.Get(name) == "" {
			c.t.Errorf("%s: the header %s is missing", where, name)
		}
	}
	kind := r.header.Get("Content-Type")
	if len(response.Content) == 0 {
		if r.body != "" || kind != "" {
			c.t.Errorf("%s: there is a body of %q, which %s does not list: %s", where, kind, openAPIName, r.body)
		}
		return
	}
	content := response.Content[kind]
	if content == nil {
		c.t.Errorf("%s: the type %q is not listed in %s", where, kind, openAPIName)
		return
	}
	if whole && (kind == "application/json" || kind == "application/problem+json") {
		if err := fits(content.Schema, []byte(r.body)); err != nil {
			c.t.Errorf("%s: %s: %v", where, r.body, err)
		}
	}
}

// missing are the answers that the document lists and nobody has heard.
func (c *contract) missing() (list []string) {
	for path, item := range c.doc.Paths.Map() {
		for method, operation := range item.Operations() {
			for status := range operation.Responses.Map() {
				if one := method + " " + path + " " + status; (method != http.MethodHead || ownHead(item)) && !c.heard[one] {
					list = append(list, one)
				}
			}
		}
	}
	slices.Sort(list)
	return list
}

// TestOpenAPI holds the document against the rules of OpenAPI 3.1, and against the routes: none is missing, none is made up.
func TestOpenAPI(t *testing.T) {
	c := readContract(t)
	if !strings.HasPrefix(c.doc.OpenAPI, "3.1.") {
		t.Errorf("the version is %q", c.doc.OpenAPI)
	}
	if err := c.doc.Validate(context.Background(), openapi3.EnableExamplesValidation()); err != nil {
		t.Errorf("%s: %v", openAPIName, err)
	}
	described := map[string]bool{}
	for path, item := range c.doc.Paths.Map() {
		for method := range item.Operations() {
			described[method+" "+path] = true
		}
	}
	server := new(Server) // which is walked and serves nothing
	handler, err := server.Routes()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	served := map[string]bool{}
	_ = chi.Walk(handler.(chi.Routes), func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		served[method+" "+path] = true
		if method == http.MethodGet { // middleware.GetHead
			served[http.MethodHead+" "+path] = true
		}
		return nil
	})
	for route := range served {
		if !described[route] {
			t.Errorf("%s is served and not described: under `paths` of static/%s add the path with the method in small letters, and every "+
				"status that it answers (`head: *head` beside each `get`); then have TestOpenAPIAnswers ask for each", route, openAPIName)
		}
	}
	for route := range described {
		if !served[route] {
			t.Errorf("%s is described and not served: take it out of static/%s, or add the route to routes.go", route, openAPIName)
		}
	}
}

// TestOpenAPIServed serves the document as it is, and says nothing twice to who has it.
func TestOpenAPIServed(t *testing.T) {
	t.Parallel()
	d := openDoor(t, func(d *door) { d.server.AllowedOrigins = []string{"https://app.example"} })
	text, _ := openAPIDocument()
	got := d.ask(http.MethodGet, "/openapi.yaml", "", "", "Origin", "https://app.example")
	if got.status != 200 || got.body != string(text) || got.header.Get("Access-Control-Allow-Origin") != "https://app.example" {
		t.Errorf("%d of %d bytes, %v", got.status, len(got.body), got.header)
	}
	if head := d.ask(http.MethodHead, "/openapi.yaml", "", ""); head.header.Get("Content-Length") != strconv.Itoa(len(text)) || head.body != "" {
		t.Errorf("HEAD: %v %q", head.header, head.body)
	}
	tag := got.header.Get("ETag")
	for having, status := range map[string]int{tag: 304, "W/" + tag: 304, `"other", ` + tag: 304, `"other"`: 200, "": 200} {
		if got := d.ask(http.MethodGet, "/openapi.yaml", "", "", "If-None-Match", having); got.status != status {
			t.Errorf("who has %s is answered with %d, not %d", having, got.status, status)
		}
	}
}
