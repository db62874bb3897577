package handlers

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/gobwas/ws"

	"sluice/streams"
)

// frames reads a stream frame by frame and holds each against its schema.
type frames struct {
	t      testing.TB
	schema *openapi3.SchemaRef
	next   func() (text []byte, kind string) // the frame as JSON; "" at the end
	seen   map[string]bool                   // kinds
}

// until reads up to a frame of a kind; "" is the end.
func (f *frames) until(wanted string) {
	f.t.Helper()
	for {
		text, kind := f.next()
		if kind == "" && wanted != "" {
			f.t.Fatalf("the stream ends without %s", wanted)
		}
		if kind == "" {
			return
		}
		f.seen[kind] = true
		if err := fits(f.schema, text); err != nil {
			f.t.Errorf("%s: %v", text, err)
		}
		if kind == wanted {
			return
		}
	}
}

// openFrames opens a stream; send says something over it, where it is a WebSocket.
func (c *contract) openFrames(d *door, transport, token, query string, seen map[string]bool, headers ...string) (f *frames, send func(string)) {
	c.t.Helper()
	f = &frames{t: c.t, schema: c.schema("JsonFrame"), seen: seen}
	if transport == "websocket" {
		socket := d.dialSocket(token, query, headers...)
		f.next = func() ([]byte, string) {
			frame, ok := socket.frame()
			if !ok || frame.Header.OpCode == ws.OpClose {
				return nil, ""
			}
			return frame.Payload, kindOfFrame(c.t, frame.Payload, "type")
		}
		return f, socket.send
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	c.t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+"/v2/realtime/stream?pad=1&"+query, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Accept", map[string]string{"sse": eventStream, "ndjson": ndjsonType}[transport])
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := d.client.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { response.Body.Close() })
	lines := bufio.NewReader(response.Body)
	if transport == "sse" {
		f.schema = c.schema("SseFrame")
		f.next = func() ([]byte, string) { return nextSSE(c.t, lines) }
		return f, nil
	}
	f.next = func() ([]byte, string) {
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return nil, ""
			}
			if strings.TrimSpace(line) != "" {
				return []byte(line), kindOfFrame(c.t, []byte(line), "type")
			}
		}
	}
	return f, nil
}

// nextSSE reads one frame that has data, as the object of its fields.
func nextSSE(t testing.TB, lines *bufio.Reader) ([]byte, string) {
	t.Helper()
	fields := map[string]any{}
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil, ""
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case line == "\n" && fields["data"] != nil:
			text, err := json.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			return text, fmt.Sprint(fields["event"])
		case line == "\n":
			clear(fields) // the retry: at the beginning
		case strings.HasPrefix(line, ":"):
		case name == "data":
			fields[name] = json.RawMessage(value)
		case name == "retry":
			if fields[name], err = strconv.Atoi(value); err != nil {
				t.Fatal(err)
			}
		default:
			fields[name] = value
		}
	}
}

func kindOfFrame(t testing.TB, text []byte, field string) string {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return fmt.Sprint(fields[field])
}

// kinds are the frames that a schema lists, by the values that a field may have; one without values is any service.
func kinds(schema *openapi3.SchemaRef, field string) (list []string) {
	for _, one := range schema.Value.OneOf {
		value := one.Value.Properties[field].Value
		switch {
		case value.Const != nil:
			list = append(list, fmt.Sprint(value.Const))
		case len(value.Enum) > 0:
			for _, name := range value.Enum {
				list = append(list, fmt.Sprint(name))
			}
		default:
			list = append(list, "finance")
		}
	}
	slices.Sort(list)
	return list
}

// TestOpenAPIFrames provokes every kind of frame in every encoding and holds it against its schema.
func TestOpenAPIFrames(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"sse", "ndjson", "websocket"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			c := readContract(t)
			d := openDoor(t, withHub(streams.Options{Heartbeat: 2 * time.Second, MaxStreamsPerUser: 1}))
			chatting(d)
			d.append("1", 20, 100)
			room := d.makeRoom(as(t, "2"), "3")
			full := `{"service":"finance","type":"t","propertyId":"p","entityType":"e","entityId":"ü","userId":"\"","data":{"n":1e4}}`
			d.mustPublish(publisher(t, "1"), full)
			seen := map[string]bool{}
			field, event, batch := "type", "event", "batch"
			if transport == "sse" {
				field, event, batch = "event", "finance", "finance"
			}
			brief := mint(t, Claims{User: "1", Role: "ADMIN", Expires: time.Now().Add(20 * time.Second)}) // so: reauth at once
			first, send := c.openFrames(d, transport, brief, "cursor=earliest", seen)
			first.until(batch)
			first.until("reauth")
			first.until("ping")
			d.append("1", 1, 10)
			first.until(event)
			if send != nil {
				send(`{"type":"subscribe","services":["nothing"],"ref":"a"}`)
				first.until("problem")
				send(`{"type":"subscribe","services":["tasks"]}`)
				first.until("ack")
			}
			second, _ := c.openFrames(d, transport, admin(t, "1"), "services=finance", seen, "Last-Event-ID", "malformed")
			second.until("reset")
			first.until("problem") // a user has one stream here
			first.until("")
			member, ask := c.openFrames(d, transport, as(t, "3"), "services=chat", seen)
			member.until("presence")
			d.ask("POST", room+"/typing", as(t, "2"), "").wants(t, "typing", http.StatusNoContent)
			member.until("typing")
			want := kinds(first.schema, field)
			if ask != nil {
				ask(`{"type":"history","room":"` + strings.TrimPrefix(room, "/v2/rooms/") + `","ref":1}`)
				member.until("ok")
			} else {
				want = slices.DeleteFunc(want, func(kind string) bool { return kind == "ok" }) // which answers requests
			}
			d.server.Hub.Drain(context.Background())
			second.until("drain")
			second.until("")
			if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
				t.Errorf("the frames sent are %v, those in %s are %v", got, openAPIName, want)
			}
		})
	}
}
