package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options is what the command line asked for, validated.
type options struct {
	check      bool
	pairwise   bool  // of all combinations only so many that each pair of values is met
	sizes      []int // bytes from the Ethernet header on, without the frame check sequence
	queues     []int // queue pairs per port
	ringSizes  []int
	mergeable  []bool
	inOrder    []bool
	vectorized []bool
	packed     []bool
	flood      bool
	runs       int
	windows    int           // of each back-end, all of which are there at once; 0: they follow each other
	patience   int           // repetitions of a measurement that had to share its cores
	duration   time.Duration // of one measurement, or of one combination's circulation
	long       time.Duration // check: of the first combination; 0: as the others
	frames     int           // check: frames per direction, at most
	backends   []string
	format     string // "table" or "json"

	server       bool // the front-end makes the sockets and waits there, the back-end connects
	vhostnet     string
	vhostnetArgs []string
	bare         string
	portOptions  string
	testpmd      string
	ovs          string // root of the file tree that Open vSwitch is in
	frontCore    int
	backCore     int
}

// usageError is a wrong command line: exit code 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// Bounds of what testpmd and its rings of 1024 take.
const (
	ringSize  = 1024 // by default
	minRing   = 64
	maxRing   = 32768
	maxPosted = maxRing // entries of all receive rings of a port that the front-end has buffers for
	minSize   = 64
	maxSize   = 1518
	maxQueues = 8
)

const synopsis = `Usage: go run ./bench/dpdk [flags]          measure, and compare with other back-ends
       go run ./bench/dpdk -check [flags]   closed loop: is every frame still there, unaltered?

`

// parseOptions reads the command line. Help and flag errors are written to w.
func parseOptions(args []string, w io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(w)
	fs.Usage = func() {
		fmt.Fprint(w, synopsis)
		fs.PrintDefaults()
	}
	fs.BoolVar(&o.check, "check", false, "check a closed loop instead of measuring")
	fs.BoolVar(&o.pairwise, "pairwise", false, "with -check: of all combinations only so many that each two values of different options meet once")
	var l lists
	fs.StringVar(&l.sizes, "sizes", "", "frame sizes in bytes, without the frame check sequence (default 64,256,512,1024,1518; with -pairwise 64,1518)")
	fs.StringVar(&l.queues, "queues", "", "queue pairs per port, a list (default 1; with -check 1,2,4; with -pairwise 1,2,4,8)")
	fs.StringVar(&l.rings, "ring", "", "entries of each ring, a list (default 1024; with -pairwise 64,256,1000,1024,32768)")
	fs.StringVar(&l.mergeable, "mrg", "", "mergeable receive buffers: on, off or on,off (default on; with -check on,off)")
	fs.StringVar(&l.inOrder, "in-order", "", "let the front-end use IN_ORDER: on, off or on,off (default on; with -pairwise on,off)")
	fs.StringVar(&l.vectorized, "vectorized", "", "let the front-end use its vector code where it has some: on, off or on,off (default off; with -pairwise on,off)")
	fs.Var((*bareList)(&l.packed), "packed", "ask for packed rings; also -packed=off or -packed=on,off (default off; with -pairwise on,off)")
	fs.BoolVar(&o.flood, "flood", false, "measure unknown destinations too, in rows of their own")
	fs.IntVar(&o.runs, "runs", 3, "rounds; the back-ends alternate within a round")
	fs.IntVar(&o.windows, "windows", 0, "measure in so many short turns of back-ends that are all there at once, each with a front-end, instead of in rounds; -seconds is for a turn then")
	fs.IntVar(&o.patience, "patience", 2, "how often a measurement is repeated when other programs used its cores")
	seconds := fs.Float64("seconds", 2, "seconds per measurement, or per combination with -check")
	long := fs.Float64("long", 0, "with -check: seconds for the first combination")
	fs.IntVar(&o.frames, "frames", 512, "with -check: frames that circulate per direction")
	chosen := fs.String("backend", "", "back-ends to run, a list of vhostnet, dpdk, ovs, bare (nothing but rings and the copy) and rings (bare without the copy) (default vhostnet,dpdk; with -check vhostnet)")
	fs.StringVar(&o.format, "o", "table", "output: table or json")
	fs.StringVar(&o.vhostnet, "vhostnet", "bin/vhostnet", "the vhostnet binary")
	fs.StringVar(&o.bare, "bare", "bin/bare", "the binary of bench/bare")
	extra := fs.String("vhostnet-args", "", "further arguments for vhostnet run, separated by spaces")
	fs.StringVar(&o.portOptions, "port-options", "mode=poll", "options of both vhostnet ports, as in --port NAME=SOCKET,OPTIONS")
	fs.StringVar(&o.testpmd, "testpmd", "dpdk-testpmd", "the dpdk-testpmd binary")
	fs.StringVar(&o.ovs, "ovs", ovsRoot(), "root of the file tree that openvswitch-switch-dpdk is in, / where it is installed")
	fs.IntVar(&o.frontCore, "front-core", 1, "core of the front-end's forwarding thread")
	fs.IntVar(&o.backCore, "back-core", 0, "core of the back-end's forwarding thread")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, &usageError{err.Error()}
	}
	if fs.NArg() > 0 {
		return o, usagef("unexpected argument %q: only flags are accepted", fs.Arg(0))
	}
	o.vhostnetArgs = strings.Fields(*extra)
	o.duration = time.Duration(*seconds * float64(time.Second))
	o.long = time.Duration(*long * float64(time.Second))
	l.backends = *chosen
	err := o.setLists(l)
	if err == nil {
		err = o.validate()
	}
	return o, err
}

// lists are the flags that are lists, as they were given.
type lists struct{ sizes, queues, rings, mergeable, inOrder, vectorized, packed, backends string }

// bareList is a list of on and off that may stand without a value, for "on".
type bareList string

func (b *bareList) String() string   { return string(*b) }
func (b *bareList) IsBoolFlag() bool { return true }

func (b *bareList) Set(s string) error {
	if s == "true" { // what the bare flag is given
		s = "on"
	}
	*b = bareList(s)
	return nil
}

// setLists parses the flags that are lists; an empty one has the mode's default.
func (o *options) setLists(l lists) error {
	for _, n := range []struct {
		list                  *[]int
		name, text            string
		plain, check, general string // defaults
		lo, hi                int
	}{
		{&o.sizes, "-sizes", l.sizes, "64,256,512,1024,1518", "64,256,512,1024,1518", "64,1518", minSize, maxSize},
		{&o.queues, "-queues", l.queues, "1", "1,2,4", "1,2,4,8", 1, maxQueues},
		{&o.ringSizes, "-ring", l.rings, "1024", "1024", "64,256,1000,1024,32768", minRing, maxRing},
	} {
		var err error
		if *n.list, err = parseInts(n.name, o.orDefault(n.text, n.plain, n.check, n.general), n.lo, n.hi); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		list         *[]bool
		name, text   string
		plain, check string // defaults
	}{
		{&o.mergeable, "-mrg", l.mergeable, "on", "on,off"},
		{&o.inOrder, "-in-order", l.inOrder, "on", "on"},
		{&o.vectorized, "-vectorized", l.vectorized, "off", "off"},
		{&o.packed, "-packed", l.packed, "off", "off"},
	} {
		var err error
		if *s.list, err = parseSwitches(s.name, o.orDefault(s.text, s.plain, s.check, "on,off")); err != nil {
			return err
		}
	}
	return o.setBackends(o.orDefault(l.backends, "vhostnet,dpdk", "vhostnet", "vhostnet"))
}

// orDefault is text, or the default of the mode.
func (o *options) orDefault(text, plain, check, general string) string {
	switch {
	case text != "":
		return text
	case o.pairwise:
		return general
	case o.check:
		return check
	}
	return plain
}

// parseSwitches reads a comma-separated list of on and off.
func parseSwitches(name, list string) ([]bool, error) {
	var switches []bool
	for word := range strings.SplitSeq(list, ",") {
		if word != "on" && word != "off" {
			return nil, usagef("%s %s: %q is neither on nor off", name, list, word)
		}
		switches = append(switches, word == "on")
	}
	return switches, nil
}

func (o *options) setBackends(list string) error {
	for word := range strings.SplitSeq(list, ",") {
		kind, binary, own := strings.Cut(word, "=")
		if !slices.Contains(backends, kind) || own && (binary == "" || kind == dpdkBackend || kind == ovsBackend) {
			return usagef("-backend %s: %q is none of %s", list, word, strings.Join(backends, ", "))
		}
		o.backends = append(o.backends, word)
	}
	return nil
}

// validate checks the numbers that stand alone.
func (o *options) validate() error {
	switch {
	case o.runs < 1:
		return usagef("-runs %d: at least 1 is needed, 3 for a median worth the name", o.runs)
	case o.windows < 0 || o.windows > 0 && o.check:
		return usagef("-windows %d: 0 or more is accepted, and not together with -check", o.windows)
	case o.patience < 0:
		return usagef("-patience %d: 0 or more is accepted", o.patience)
	case o.duration < 100*time.Millisecond || o.duration > time.Hour:
		return usagef("-seconds %v: 0.1 to 3600 is accepted", o.duration.Seconds())
	case o.long < 0 || o.long > time.Hour:
		return usagef("-long %v: 0 to 3600 seconds is accepted", o.long.Seconds())
	case o.frames < maxQueues || o.frames > maxLoopFrames:
		return usagef("-frames %d: %d to %d is accepted: one ring of %d must hold them all, with room", o.frames, maxQueues, maxLoopFrames, ringSize)
	case o.format != "table" && o.format != "json":
		return usagef("-o %s: table or json is accepted", o.format)
	case o.frontCore == o.backCore:
		return usagef("-front-core %d: the back-end polls on that core; give each a core of its own", o.frontCore)
	case o.pairwise && !o.check:
		return usagef("-pairwise: only together with -check")
	case len(o.rings()) == 0:
		return usagef("-ring: split rings have powers of two; give one of those, or -packed")
	case o.check && o.flood:
		return usagef("-flood: not together with -check, which needs each frame to arrive at one port")
	}
	return nil
}

// parseInts reads a comma-separated list of numbers between lo and hi.
func parseInts(name, list string, lo, hi int) ([]int, error) {
	var numbers []int
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < lo || n > hi {
			return nil, usagef("%s %s: %q is not a number from %d to %d", name, list, word, lo, hi)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

func choose(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}
