package nbl

import (
	"reflect"
	"testing"
)

// What every stage looks at is one cache line, the private header begins the
// next, and what follows it is one more. A field that is added in front costs
// each packet a line.
func TestListLayout(t *testing.T) {
	list := reflect.TypeFor[List]()
	for name, want := range map[string]uintptr{"Buffer": 0, "header": 64, "Offload": 64 + MaxHeader} {
		if f, ok := list.FieldByName(name); !ok || f.Offset != want {
			t.Errorf("%s is at byte %d, want %d", name, f.Offset, want)
		}
	}
	if f, _ := list.FieldByName("Reason"); f.Offset >= 64 {
		t.Errorf("Reason is at byte %d, behind the first line", f.Offset)
	}
	if list.Size() != 64+MaxHeader+64 {
		t.Errorf("a List is %d bytes, want %d: whole lines", list.Size(), 64+MaxHeader+64)
	}
}
