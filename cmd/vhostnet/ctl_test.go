package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"vhostnet/control"
	"vhostnet/vhostuser/vutest"
)

// vhostnet runs a command against the daemon; words that follow a bar have to be
// in what it prints, in a line each.
func (a *api) vhostnet(line string) (code int, out, log string) {
	a.t.Helper()
	args := strings.Fields(strings.ReplaceAll(line, "DIR", a.dir))
	return runHere(context.Background(), append(args, "--control", a.path("control"))...)
}

// says runs a command that has to succeed and to print a line with all words.
func (a *api) says(line string, words ...string) {
	a.t.Helper()
	code, out, log := a.vhostnet(line)
	if code != exitDone || log != "" {
		a.t.Errorf("vhostnet %s: exit code %d, %s", line, code, log)
	}
	for text := range strings.SplitSeq(out, "\n") {
		if len(words) > 0 && hasAll(strings.Join(strings.Fields(text), " "), words...) {
			return
		}
	}
	if len(words) > 0 || out != "" {
		a.t.Errorf("vhostnet %s prints\n%swant a line with %q", line, out, words)
	}
}

// refuses runs a command that has to fail with a code and words.
func (a *api) refuses(code int, line string, words ...string) {
	a.t.Helper()
	got, _, log := a.vhostnet(line)
	if got != code || !hasAll(log, words...) || strings.Count(log, "\n") != 1 {
		a.t.Errorf("vhostnet %s: exit code %d, %q; want %d, one line with %q", line, got, log, code, words)
	}
}

// A queue's whole life by commands.
func TestCommands(t *testing.T) {
	a := runAPI(t, "web,queue=manual,mac=52:54:00:00:00:61", "db,mac=52:54:00:00:00:62")
	web, db := connect(t, a.path("web"), vutest.Options{}), connect(t, a.path("db"), vutest.Options{})
	a.says("ports", "web vm up up 52:54:00:00:00:61 0:manual 0 1 queue=manual")
	a.says("ports", "db vm up up 52:54:00:00:00:62 1 0 1 -")
	a.says("queues allocate web --name front --buffers 32", "2 web allocated 0 0 - 32 0 control API front")
	a.says("filters set --queue 2 52:54:00:00:00:61", "2 52:54:00:00:00:61 untagged web 2 control")
	a.refuses(exitFailed, "queues complete 2 77", "1 of the queues could not be completed")
	if _, out, _ := a.vhostnet("queues complete 2 77"); !hasAll(out, "2      running  NDIS_STATUS_INVALID_PARAMETER", "77     -        NDIS_STATUS_INVALID_PARAMETER  complete: no queue 77") {
		t.Errorf("a batch that fails prints\n%s", out)
	}
	exchangeAs(t, db, web, 'a', 'b', 3)
	a.says("queues --port web", "2 web running 1 0 - 32")
	a.says("memory", "2 web receive 1")
	a.says("memory", "- web own -")
	a.says("table", "52:54:00:00:00:61 untagged filter web 2 -")
	a.says("table", "52:54:00:00:00:62 untagged filter db 1 -")
	a.says("counters", "db 3 180 0 0")
	a.says("queues set 2 --affinity 0 --name back", "2 web running 1 0 0 32", "back")
	a.says("filters clear 2")
	a.says("queues", "2 web paused 0")
	a.says("filters set --port web 52:54:00:00:00:63 --vlan any", "3 52:54:00:00:00:63 any web 2 control")
	a.says("filters move 3 1", "3 52:54:00:00:00:63 any db 1 control")
	a.says("filters clear --port db 52:54:00:00:00:63 --vlan any")
	a.says("queues free 2", "2 undefined NDIS_STATUS_SUCCESS")
	a.says("queues capabilities", "current 256 65536 0x1b 0x9")
	a.says("ports add new=DIR/new,vlan=10,mask=csum,mask=mq", "new vm up waiting", "mask=csum+mq vlan=10")
	a.says("ports link new down", "new vm down waiting")
	a.says("ports remove new")
	a.says("filters --port db", "1 52:54:00:00:00:62 untagged db 1 configuration")

	a.refuses(exitFailed, "queues free 2", "no queue 2", "NDIS_STATUS_INVALID_PARAMETER")
	a.refuses(exitFailed, "ports remove new", "no port new")
	a.refuses(exitFailed, "filters clear 1", "origin configuration")
	a.refuses(exitFailed, "queues allocate db", "queue=manual")
	for line, word := range map[string]string{
		"ports extra": "extra", "ports add": "NAME=PATH", "ports add x": "NAME=PATH", "ports add x=y,z=1": "unknown option", "ports remove": "name of a port",
		"ports link web": "up or down", "ports link web sideways": "up or down",
		"queues allocate": "name of a port", "queues allocate web --affinity x": "--affinity x", "queues complete": "number of a queue", "queues complete x": "number of a queue",
		"queues complete 70000": "number of a queue", "queues set 1": "nothing to change", "queues set x --name y": "number of a queue", "queues free": "number of a queue", "queues free x": "number of a queue",
		"filters set": "one address", "filters set 52:54:00:00:00:61": "--port or --queue", "filters set --port web x": "mac=x", "filters set --port web 52:54:00:00:00:61 --vlan 5000": "--vlan 5000",
		"filters clear": "number of a filter", "filters clear x": "number of a filter", "filters clear --port web x": "mac=x", "filters clear --port web": "number of a filter",
		"filters move 1": "that of a queue", "filters move x 1": "number of a filter", "filters move 1 x": "number of a queue",
		"ports -o xml": "table or json", "events --count x": "--count x", "memory x": "takes no argument",
	} {
		a.refuses(exitUsage, line, word)
	}
}

// In JSON each command prints what the API answered.
func TestCommandsInJSON(t *testing.T) {
	a := runNetworks(t, "user")
	a.must(a.add("db"))
	a.must(a.add("hand,queue=manual"))
	for line, v := range map[string]any{
		"ports": &[]control.Port{}, "queues": &[]control.Queue{}, "filters": &[]control.Filter{}, "memory": &control.MemoryReport{},
		"table": &[]control.Entry{}, "counters": &[]control.Counters{}, "queues capabilities": &control.Capabilities{},
		"queues allocate hand": &control.Queue{}, "forwards add tcp/127.0.0.1:0/10.0.2.15:80": &control.Forward{}, "forwards": &[]control.Forward{}, "ports link db up": &control.Port{}, "filters set --port db 52:54:00:00:00:99": &control.Filter{},
	} {
		code, out, log := a.vhostnet(line + " -o json")
		d := json.NewDecoder(strings.NewReader(out))
		d.DisallowUnknownFields()
		if err := d.Decode(v); code != exitDone || log != "" || err != nil {
			t.Errorf("vhostnet %s -o json: exit code %d, log %q, %v:\n%s", line, code, log, err, out)
		}
	}
}

// The command tells events in order, with or without a table, and ends when it
// has told enough.
func TestEventsCommand(t *testing.T) {
	a := runAPI(t, "web,mac=52:54:00:00:00:61")
	for _, form := range []string{"table", "json"} {
		var out, log text
		code := make(chan int, 1)
		waitFor(t, "streams of before to end", func() bool { return a.hub.Subscribers() == 1 })
		go func() {
			code <- run(t.Context(), strings.Fields("events --count 3 --port db -o "+form+" --control "+a.path("control")), &out, &log)
		}()
		waitFor(t, "the stream", func() bool { return a.hub.Subscribers() == 2 })
		a.must(a.add("db"))
		a.must(a.setLink(t.Context(), a.ports.find("db"), false))
		a.must(a.removePort("db"))
		if c := <-code; c != exitDone || log.String() != "" {
			t.Errorf("exit code %d, log %q", c, log.String())
		}
		for i, want := range []string{"port-added", "link", "port-removed"} {
			lines := out.lines()
			if form == "table" {
				lines = lines[1:]
			}
			if len(lines) != 3 || !strings.Contains(lines[i], want) || !strings.Contains(lines[i], "db") {
				t.Errorf("events in a %s:\n%s", form, out.String())
				break
			}
		}
	}
}

// Without a daemon a command says what to look for.
func TestNoDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	for _, line := range []string{"ports", "queues free 1", "events"} {
		code, out, log := runHere(context.Background(), append(strings.Fields(line), "--control", path)...)
		if code != exitFailed || out != "" || !hasAll(log, path, "--control", "no such file") {
			t.Errorf("vhostnet %s: exit code %d, output %q, log %q", line, code, out, log)
		}
	}
}

// The shell is offered what the daemon has.
func TestCompletionByDaemon(t *testing.T) {
	a := runAPI(t, "web,queue=manual,mac=52:54:00:00:00:61", "db,mac=52:54:00:00:00:62")
	connect(t, a.path("db"), vutest.Options{})
	for line, want := range map[string]string{
		"ports remove ":           "web\ndb\n",
		"ports link db ":          "up\ndown\n",
		"queues free ":            "1\tdb, Running\n",
		"filters clear ":          "1\t52:54:00:00:00:62 of db\n",
		"filters move 1 ":         "1\tdb, Running\n",
		"filters set x --port ":   "web\ndb\n",
		"queues allocate web ":    ":4",
		"queues -o ":              "table\njson\n",
		"events --port ":          "web\ndb\n",
		"filters set x --queue ":  "1\tdb, Running\n",
		"queues complete 1 ":      "1\tdb, Running\n",
		"filters set x --vlan ":   "untagged\nany\n",
		"queues set 1 --buffers ": ":4",
	} {
		head, last, _ := strings.Cut(line, " ")
		args := append([]string{cobra.ShellCompRequestCmd, head, "--control", a.path("control")}, strings.Fields(last)...)
		if sub, rest, _ := strings.Cut(last, " "); sub != "" && !strings.HasPrefix(sub, "-") { // flags follow the subcommand
			args = append([]string{cobra.ShellCompRequestCmd, head, sub, "--control", a.path("control")}, strings.Fields(rest)...)
		}
		if code, out, _ := runHere(context.Background(), append(args, "")...); code != exitDone || !strings.HasPrefix(out, want) {
			t.Errorf("completion of %q: exit code %d, %q, want %q", line, code, out, want)
		}
	}
}
