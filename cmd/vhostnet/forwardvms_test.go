package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// A way in to a VM of which the file has no port is right, as ports come at run time
// too, and may be a mistake: check has a note of it, and the log one line.
func TestForwardToStranger(t *testing.T) {
	const forwards = `forward = ["tcp/127.0.0.1:0/web:80", "tcp/127.0.0.1:0/WEB:81", "tcp/127.0.0.1:0/nobody:80", "udp/127.0.0.1:0/far:53", "udp/127.0.0.1:0/10.0.2.15:53"]`
	const text = "switch \"s\" {\n uplink \"user\" \"u\" {\n  " + forwards + "\n }\n port \"web\" { socket = \"/a\" }\n}\nswitch \"t\" {\n port \"far\" { socket = \"/b\" }\n}\n"
	path := writeFile(t, "a.hcl", text)
	code, out, log := runHere(ended(), "check", path)
	lines := strings.Split(strings.TrimSuffix(log, "\n"), "\n")
	if code != exitDone || !strings.Contains(out, "ports: 3") || len(lines) != 2 || !hasAll(lines[0], path+":2:2: note: ", `uplink "user" "u"`, "tcp 127.0.0.1:0 to nobody:80", "is called nobody") || !hasAll(lines[1], "udp 127.0.0.1:0 to far:53", "is called far") {
		t.Errorf("exit code %d, output:\n%s\nlog:\n%s", code, out, log)
	}
	code, out, log = runHere(ended(), "check", path, "-o", "json")
	var r fileReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitDone || log != "" || !r.Valid || len(r.Notes) != 2 || "note: "+r.Notes[0].Text != strings.TrimPrefix(lines[0], path+":2:2: ") {
		t.Errorf("exit code %d, %v, log %q, %s", code, err, log, out)
	}
}

// The log says it at the start and with each configuration that is read anew, as long
// as there is no port of the name, whoever has added it.
func TestLogOfForwardToStranger(t *testing.T) {
	const taken, warning = "configuration is read anew", "forwards lead to VMs of which their switch has no port"
	control := t.TempDir() + "/control"
	settings := "control = \"" + control + "\"\n" + uplinkText("", "tcp/127.0.0.1:0/b:80", "tcp/127.0.0.1:0/a:80")
	r := startReloader(t, settings, "a")
	r.awaitLog("WARN", warning, "127.0.0.1:0 to b:80")
	if r.logged(warning, "to a:80") != 0 {
		t.Error("there is a port a")
	}
	again := func(want int, ports ...string) {
		t.Helper()
		before := r.logged(warning)
		r.reload(r.text(settings, ports...), taken)
		if n := r.logged(warning) - before; n != want {
			t.Errorf("ports %v: %d lines, want %d", ports, n, want)
		}
	}
	again(1, "a")
	again(0, "a", "b")
	r.reload(r.text(settings, "a"), taken, "removed=1")
	if code, _, log := runHere(t.Context(), "ports", "add", "b="+r.dir+"/hand", "--control", control); code != exitDone {
		t.Fatal(log)
	}
	again(0, "a")
	r.end()
}
