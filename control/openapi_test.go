package control

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

type document struct {
	Paths      map[string]map[string]any `yaml:"paths"`
	Components struct {
		Parameters map[string]any `yaml:"parameters"`
		Responses  map[string]any `yaml:"responses"`
		Schemas    map[string]struct {
			Required   []string       `yaml:"required"`
			Properties map[string]any `yaml:"properties"`
		} `yaml:"schemas"`
	} `yaml:"components"`
}

func readDocument(t *testing.T) (d document) {
	t.Helper()
	if err := yaml.Unmarshal(openAPI, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The document has the routes that there are, and no others.
func TestDocumentHasTheRoutes(t *testing.T) {
	d := readDocument(t)
	var described []string
	for path, methods := range d.Paths {
		for method := range methods {
			described = append(described, strings.ToUpper(method)+" "+path)
		}
	}
	served := []string{"GET /v1/events", "GET /openapi.yaml"}
	for _, r := range routes {
		served = append(served, r.pattern)
	}
	slices.Sort(described)
	slices.Sort(served)
	if !slices.Equal(described, served) {
		t.Errorf("described are\n%s\nserved are\n%s", strings.Join(described, "\n"), strings.Join(served, "\n"))
	}
}

// The document has the types' members, and says which are always there.
func TestDocumentHasTheTypes(t *testing.T) {
	d := readDocument(t)
	types := map[string]reflect.Type{}
	for _, v := range []any{
		Port{},
		Ring{},
		Polling{},
		PortMemory{},
		PortRequest{},
		LinkRequest{},
		Queue{},
		QueueRequest{},
		QueueChange{},
		CompletionRequest{},
		Completion{},
		Memory{},
		QueueMemory{},
		MemoryReport{},
		Filter{},
		Address{},
		FilterRequest{},
		MoveRequest{},
		Forward{},
		ForwardRequest{},
		Entry{},
		Capabilities{},
		CapabilitySet{},
		Counters{},
		Event{},
		Error{},
	} {
		types[reflect.TypeOf(v).Name()] = reflect.TypeOf(v)
	}
	for name := range d.Components.Schemas {
		if types[name] == nil {
			t.Errorf("schema %s is no type", name)
		}
	}
	for name, typ := range types {
		schema := d.Components.Schemas[name]
		var members, required []string
		for _, f := range reflect.VisibleFields(typ) {
			tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.Anonymous || tag == "-" {
				continue
			}
			members = append(members, tag)
			if options != "omitempty" {
				required = append(required, tag)
			}
		}
		slices.Sort(members)
		slices.Sort(required)
		slices.Sort(schema.Required)
		if got := slices.Sorted(maps.Keys(schema.Properties)); !slices.Equal(got, members) {
			t.Errorf("schema %s has the members %v, the type %v", name, got, members)
		}
		if !slices.Equal(schema.Required, required) {
			t.Errorf("schema %s requires %v, the type has always %v", name, schema.Required, required)
		}
	}
}

// Whatever the document refers to is in it.
func TestDocumentRefersToItself(t *testing.T) {
	d := readDocument(t)
	text := string(openAPI)
	n := 0
	for rest := text; ; n++ {
		_, after, ok := strings.Cut(rest, "#/components/")
		if !ok {
			break
		}
		rest = after
		kind, name, _ := strings.Cut(after[:strings.IndexByte(after, '\'')], "/")
		var known bool
		switch kind {
		case "parameters":
			_, known = d.Components.Parameters[name]
		case "responses":
			_, known = d.Components.Responses[name]
		default:
			_, known = d.Components.Schemas[name]
		}
		if !known {
			t.Errorf("#/components/%s/%s is not there", kind, name)
		}
	}
	if n < len(routes) {
		t.Errorf("%d references in a document of %d routes", n, len(routes))
	}
}
