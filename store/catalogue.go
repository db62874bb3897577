package store

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
)

//go:embed catalogue.json
var embeddedCatalogue []byte

// Service is one label that events may carry, or, where it has sources, a name for those of others.
type Service struct {
	Name    string   `json:"name"`
	Sources []string `json:"sources,omitempty"` // derived: stores nothing of its own
	Own     bool     `json:"own,omitempty"`     // the server's own: nobody publishes to it
}

// Catalogue is the services that there are. It does not change while a process runs.
type Catalogue struct {
	services []Service
	document string
	bits     map[string]uint64 // of stored services
	masks    map[string]uint64 // of all names
}

// storedLimit is how many services can be told apart by one word of bits.
const storedLimit = 64

var serviceName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// reservedNames are those of frames, and those that an EventSource dispatches itself.
var reservedNames = []string{
	"ack", "event", "batch", "ping", "reset", "reauth", "drain", "problem", "ok", "typing", "presence", "open", "error", "message",
}

// DefaultCatalogue is the embedded one (docs/protocol.md, "Events").
func DefaultCatalogue() *Catalogue {
	catalogue, err := ParseCatalogue(embeddedCatalogue)
	if err != nil {
		panic(err) // the embedded file is wrong
	}
	return catalogue
}

// ParseCatalogue reads `{"services": [{"name", "sources"?, "own"?}, …]}` and says what is wrong with it.
func ParseCatalogue(text []byte) (*Catalogue, error) {
	var document struct {
		Services []Service `json:"services"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&document); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something behind the document")
	}
	c := &Catalogue{services: document.Services, bits: map[string]uint64{}, masks: map[string]uint64{}}
	for _, one := range c.services {
		_, twice := c.masks[one.Name]
		switch {
		case !serviceName.MatchString(one.Name):
			return nil, fmt.Errorf("service %q is not called like %s", one.Name, serviceName)
		case slices.Contains(reservedNames, one.Name):
			return nil, fmt.Errorf("service %q is called like a frame or an event of EventSource", one.Name)
		case twice:
			return nil, fmt.Errorf("service %q is there twice", one.Name)
		case len(one.Sources) > 0 && one.Own:
			return nil, fmt.Errorf("service %q is derived and the server's own", one.Name)
		case len(one.Sources) == 0 && len(c.bits) == storedLimit:
			return nil, fmt.Errorf("more than %d services store events", storedLimit)
		}
		c.masks[one.Name] = 0
		if len(one.Sources) == 0 {
			c.bits[one.Name] = 1 << len(c.bits)
			c.masks[one.Name] = c.bits[one.Name]
		}
	}
	if len(c.bits) == 0 {
		return nil, errors.New("no service stores events")
	}
	for _, one := range c.services {
		for _, source := range one.Sources {
			if c.bits[source] == 0 {
				return nil, fmt.Errorf("service %q is derived from %q, which stores nothing", one.Name, source)
			}
			c.masks[one.Name] |= c.bits[source]
		}
	}
	kept, err := json.Marshal(document)
	c.document = string(kept)
	return c, err
}

// Document is the catalogue as text, equal for equal catalogues.
func (c *Catalogue) Document() string { return c.document }

// Bit is the bit of a service that stores events; 0 for any other name.
func (c *Catalogue) Bit(service string) uint64 { return c.bits[service] }

// Mask is the bits of all stored services that subscribing to a name means.
func (c *Catalogue) Mask(service string) (mask uint64, known bool) {
	mask, known = c.masks[service]
	return mask, known
}

// Names lists all services in the order of the document.
func (c *Catalogue) Names() []string { return c.names(func(Service) bool { return true }) }

// Stored lists those that events carry.
func (c *Catalogue) Stored() []string {
	return c.names(func(one Service) bool { return len(one.Sources) == 0 })
}

// Usual lists those that a stream has when it names none: all but the server's own.
func (c *Catalogue) Usual() []string { return c.names(func(one Service) bool { return !one.Own }) }

func (c *Catalogue) names(wanted func(Service) bool) (names []string) {
	for _, one := range c.services {
		if wanted(one) {
			names = append(names, one.Name)
		}
	}
	return names
}

// Own says whether a service is the server's own.
func (c *Catalogue) Own(service string) bool {
	return slices.ContainsFunc(c.services, func(one Service) bool { return one.Name == service && one.Own })
}

// Publishable says with nil that applications may publish to a service, and else why not.
func (c *Catalogue) Publishable(service string) error {
	at := slices.IndexFunc(c.services, func(one Service) bool { return one.Name == service })
	switch {
	case at < 0:
		return fmt.Errorf("%q is not in the catalogue", service)
	case len(c.services[at].Sources) > 0:
		return fmt.Errorf("%q is derived: publish to one of its sources", service)
	case c.services[at].Own:
		return fmt.Errorf("%q is the server's own", service)
	}
	return nil
}

// KeepCatalogue makes a catalogue the one in force.
func (s *Store) KeepCatalogue(ctx context.Context, c *Catalogue) error {
	_, err := s.db.ExecContext(ctx, `insert into sluice.catalogue (document) values ($1) on conflict (singleton)
		do update set document = excluded.document, updated = now()
		where sluice.catalogue.document::text <> excluded.document::text`, c.document)
	return classify(err)
}

// CatalogueInForce is the text of the catalogue that the instance started last has brought.
func (s *Store) CatalogueInForce(ctx context.Context) (string, error) {
	var document string
	err := s.db.GetContext(ctx, &document, `select document::text from sluice.catalogue`)
	return document, classify(err)
}

// PropertiesOf gives a look-up of a user's property ids by the operator's own query: $1 is the org, $2 the user, and
// its one column the ids.
func (s *Store) PropertiesOf(query string) func(ctx context.Context, org, user string) ([]string, error) {
	return func(ctx context.Context, org, user string) ([]string, error) {
		var ids []string
		err := s.db.SelectContext(ctx, &ids, query, org, user)
		return ids, classify(err)
	}
}
