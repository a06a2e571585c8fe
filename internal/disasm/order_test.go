package disasm

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// guarded are the accessors of which one instruction is promised.
var guarded = []string{"Load16", "Load32", "Load64", "Store16", "Store32", "Store64", "LoadAcquire32", "StoreRelease32", "Fence", "LoadFirst", "LoadSecond", "AcquireSecond", "StoreSecond"}

// owners are what stands before their names in a program.
var owners = map[string]string{
	"Load16": "sharedmem.Block.", "Load32": "sharedmem.Block.", "Load64": "sharedmem.Block.",
	"Store16": "sharedmem.Block.", "Store32": "sharedmem.Block.", "Store64": "sharedmem.Block.",
	"LoadAcquire32": "sharedmem.Block.", "StoreRelease32": "sharedmem.Block.", "Fence": "sharedmem.",
	"LoadFirst": "sharedmem.Pairs.", "LoadSecond": "sharedmem.Pairs.", "AcquireSecond": "sharedmem.Pairs.", "StoreSecond": "sharedmem.Pairs.",
}

// promised are their instructions (docs/memory-model.md): one access of the
// whole word, and for the last three one that orders.
var promised = map[string]map[string]string{
	"amd64": {
		"Load16":         `^movzw[lq] [^%]*\(`,
		"Load32":         `^mov [^%]*\(.*\),%(e|r\d+d)`,
		"Load64":         `^mov [^%]*\(.*\),%r`,
		"Store16":        `^movw? %\w+,.*\(`,
		"Store32":        `^movl? %\w+,.*\(`,
		"Store64":        `^movq? %\w+,.*\(`,
		"LoadAcquire32":  `^mov [^%]*\(.*\),%(e|r\d+d)`,
		"StoreRelease32": `^xchg %e?\w+,.*\(`,
		"Fence":          `^xchg %e?\w+,.*\(`,
		"LoadFirst":      `^mov [^%]*\(.*\),%r`,
		"LoadSecond":     `^mov [^%]*\(.*\),%r`,
		"AcquireSecond":  `^mov [^%]*\(.*\),%r`,
		"StoreSecond":    `^movq? %\w+,.*\(`,
	},
	"arm64": {
		"Load16":         `^ldrh w\d+, \[`,
		"Load32":         `^ldr w\d+, \[`,
		"Load64":         `^ldr x\d+, \[`,
		"Store16":        `^strh w(\d+|zr), \[`,
		"Store32":        `^str w(\d+|zr), \[`,
		"Store64":        `^str x(\d+|zr), \[`,
		"LoadAcquire32":  `^ldar w\d+, \[`,
		"StoreRelease32": `^stlr w(\d+|zr), \[`,
		"Fence":          `^stlr w(\d+|zr), \[`,
		"LoadFirst":      `^ldr x\d+, \[`,
		"LoadSecond":     `^ldr x\d+, \[`,
		"AcquireSecond":  `^ldar x\d+, \[`,
		"StoreSecond":    `^str x(\d+|zr), \[`,
	},
}

// onStack are accesses of a function's own frame. nilCheck touches no memory, or
// loads a byte whose value nobody looks at.
var (
	onStack  = regexp.MustCompile(`\(%rsp\)|\(%rbp\)|\[sp|%fs:`)
	memory   = regexp.MustCompile(`\(%|\[x`)
	nilCheck = regexp.MustCompile(`^test %al,|^lea |^nop|^ldrsb x27,`)
)

// touches reports whether i accesses memory that is not the function's frame.
func (i instruction) touches() bool {
	return memory.MatchString(i.text) && !onStack.MatchString(i.text) && !nilCheck.MatchString(i.text)
}

// TestV57_OneInstruction: each accessor touches memory once, with the width
// of the word and the promised instruction, also in builds for debuggers and,
// as far as it does not go through the detector, for the race detector.
func TestV57_OneInstruction(t *testing.T) {
	lines := readAccessors(t)
	for _, b := range []build{amd64N, arm64N, amd64Race} {
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			functions := compile(t, b, `vhostnet/sharedmem\.(Block\.(Load|Store)|Fence|Pairs\.)`)
			for _, name := range guarded {
				text, ok := functions[owners[name]+name]
				if !ok {
					t.Errorf("there is no function %s%s", owners[name], name)
					continue
				}
				checkAccessor(t, b, name, lines, text)
			}
		})
	}
}

// checkAccessor looks at the line of name that touches memory.
func checkAccessor(t *testing.T, b build, name string, lines accessors, text []instruction) {
	t.Helper()
	want := regexp.MustCompile(promised[b.arch][name])
	var touching, calls []string
	for _, i := range text {
		if lines[i.at] != name {
			continue
		}
		if i.touches() {
			touching = append(touching, i.text)
		}
		if i.call != "" {
			calls = append(calls, i.call)
		}
	}
	if b.kind == "-race" && strings.Contains(strings.Join(calls, " "), "sync/atomic.") {
		return // the detector does the access, as an atomic one
	}
	if len(touching) != 1 || !want.MatchString(touching[0]) {
		t.Errorf("%s touches memory by %q, want one instruction like %s", name, touching, want)
	}
}

// orders are what each function of the rings does to guest memory, as the
// accessors stand in its code. A dot stands for any of them.
var orders = []struct {
	function string
	want     string // a regular expression over the accessors' names
	why      string
}{
	{
		"virtqueue.(*split).ready", `^LoadAcquire32 $`,
		"avail.idx is read once, before all that it announces",
	},
	{
		"virtqueue.(*split).run", `^Load16 (LoadFirst LoadSecond|LoadSecond LoadFirst) $`,
		"an avail entry and the two words of its descriptor, each once",
	},
	{
		"virtqueue.(*split).push", `^Store64 StoreRelease32 $`,
		"used.idx is published once per batch, behind the entries",
	},
	{
		"virtqueue.(*split).wantsCall", `^LoadAcquire32 (Load16 )+$`,
		"the driver's wish is not read before used.idx is stored",
	},
	{
		"virtqueue.(*split).arm", `^Store16 Fence StoreRelease32 LoadAcquire32 $`,
		"our wish is stored before avail.idx is read again",
	},
	{
		"virtqueue.(*packed).run", `^AcquireSecond LoadFirst $`,
		"len, id and flags of a slot are read in one word, before its address",
	},
	{
		"virtqueue.(*packed).push", `^Store32 StoreRelease32 $`,
		"the first slot's flags are published behind all other words of the batch",
	},
	{
		"virtqueue.writeRun", `^StoreSecond $`,
		"a used slot is one word",
	},
	{
		"virtqueue.(*packed).writeChains", `^StoreSecond $`,
		"a used slot is one word",
	},
	{
		"virtqueue.(*packed).wantsCall", `^LoadAcquire32 $`,
		"the driver's wish is one word, not read before the slot is published",
	},
	{
		"virtqueue.(*packed).arm", `^StoreRelease32 LoadAcquire32 $`,
		"our wish is one word, stored before the slot is read again",
	},
}

// TestV58_Order: the orderings of the notification protocol and of the
// publication are in the machine code.
func TestV58_Order(t *testing.T) {
	lines := readAccessors(t)
	for _, b := range []build{amd64, arm64} {
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			functions := compile(t, b, `vhostnet/virtqueue\.`)
			for _, o := range orders {
				text, ok := functions[o.function]
				if !ok {
					t.Errorf("there is no function %s", o.function)
					continue
				}
				if got := sequence(t, b, lines, text); !regexp.MustCompile(o.want).MatchString(got) {
					t.Errorf("%s accesses guest memory by %q, want %q: %s", o.function, got, o.want, o.why)
				}
			}
		})
	}
}

// sequence is the names of the accessors in text, in the order of the code,
// and checks that each is compiled to its instruction.
func sequence(t *testing.T, b build, lines accessors, text []instruction) string {
	t.Helper()
	var names strings.Builder
	for _, i := range text {
		name, ok := lines[i.at]
		if !ok || !i.touches() {
			continue
		}
		if want := promised[b.arch][name]; !regexp.MustCompile(want).MatchString(i.text) {
			t.Errorf("%s at %s is %q, want one instruction like %s", name, i.at, i.text, want)
		}
		_, _ = fmt.Fprintf(&names, "%s ", name)
	}
	return names.String()
}
