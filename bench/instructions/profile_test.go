package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestParse: a function's own instructions are added up, also where inlined
// lines of other files stand between; those of calls are not its own.
func TestParse(t *testing.T) {
	const profile = `version: 1
events: Ir

fl=(1) a.go
fn=(1) main.a
10 3
+2 4
cfn=(2) main.b
calls=2 20
11 100
fi=(2) b.go
20 5
fe=(1)
* 1

fn=(2)
20 50
fn=(3) main.b'2
-1 50

fn=(1)
10 2

totals: 115
`
	got, err := parse(strings.NewReader(profile))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(costs{"main.a": 15, "main.b": 100}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := parse(strings.NewReader("fn=(1) x\n10 many\n")); err == nil {
		t.Error("a count that is no number was taken")
	}
}

// TestPerFrame: what a run costs once falls out, and so do the drivers.
func TestPerFrame(t *testing.T) {
	frames := float64(batch * (batches - fewBatches))
	few := costs{"run": 1000, "once": 7, "vqtest.x": 5}
	many := costs{"run": 1000 + 3*frames, "once": 7, "vqtest.x": 5 + frames}
	if diff := cmp.Diff(costs{"run": 3, "once": 0}, perFrame(few, many)); diff != "" {
		t.Error(diff)
	}
	var out strings.Builder
	if err := report(&out, perFrame(few, many), 2); err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(strings.Fields(out.String()), " "); text != "instructions function 3.0 run 3 in all" {
		t.Errorf("the report is\n%s", text)
	}
}
