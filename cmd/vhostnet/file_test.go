package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"vhostnet/vhostuser/vutest"
)

// writeFile makes a configuration file.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// parseArgs is what a command line of run means.
func parseArgs(t *testing.T, args ...string) (config, error) {
	t.Helper()
	o := &runOptions{}
	cmd := newRunCommand(o)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return o.parse()
}

// sameConfig compares what is meant, not where it was said.
func sameConfig(t *testing.T, what string, got, want config) {
	t.Helper()
	strip := func(c config) config {
		c.saidCPUs = origin{}
		c.ports = slices.Clone(c.ports)
		for i := range c.ports {
			c.ports[i].said, c.ports[i].from = origin{}, ""
		}
		return c
	}
	if diff := cmp.Diff(strip(want), strip(got), cmp.AllowUnexported(config{}, portSpec{}, socketAccess{}, switching{}, guestOptions{}, origin{}, uplinkSpec{}, tapSpec{}, userSpec{}),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("%s:\n%s", what, diff)
	}
}

const exampleFile = "../../examples/config/vhostnet.hcl"

// The example, its JSON twin and flags that say the same are the same.
func TestExampleFile(t *testing.T) {
	group := fmt.Sprint(os.Getgid())
	want, err := parseArgs(t, "--workers", "2", "--socket-group", group, "--log-format", "json",
		"--port", "gateway=/run/vhostnet/gateway.sock,switch=lan,trunk=10+20-29,native=10",
		"--port", "web=/run/vhostnet/web.sock,mac=52:54:00:00:00:01,vlan=10,protected=on,mirror=watch",
		"--port", "db=/run/vhostnet/db.sock,mac=52:54:00:00:00:02,vlan=20,protected=on,pairs=2,mask=guest_tso4+guest_tso6,mirror=watch",
		"--port", "watch=/run/vhostnet/watch.sock,role=connect,mode=interrupt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{exampleFile, exampleFile + ".json"} {
		// Not every machine has the group kvm.
		got, err := parseArgs(t, "--config", file, "--socket-group", group)
		if err != nil {
			t.Fatal(err)
		}
		sameConfig(t, file, got, want)
	}
}

// Each setting is a flag and each key of a port an option, and both ways round.
func TestKeysAreFlags(t *testing.T) {
	var flags, settings, options []string
	(&runOptions{}).newSettings().VisitAll(func(f *pflag.Flag) { flags = append(flags, f.Name) })
	for _, k := range settingKeys {
		settings = append(settings, k.option)
	}
	slices.Sort(flags)
	slices.Sort(settings)
	if diff := cmp.Diff(flags, settings); diff != "" {
		t.Errorf("flags and settings:\n%s", diff)
	}
	_, err := parsePort("a=b,nonsense=1")
	_, list, _ := strings.Cut(err.Error(), "known are ")
	known := strings.Fields(strings.NewReplacer(",", "", " and ", " ").Replace(list))
	for _, k := range portKeys {
		if k.name != socketKey {
			options = append(options, k.option)
		}
	}
	options = append(options, "switch") // in a file it is the block
	slices.Sort(known)
	slices.Sort(options)
	if diff := cmp.Diff(known, options); diff != "" {
		t.Errorf("options and keys of a port:\n%s", diff)
	}
	for _, k := range slices.Concat(settingKeys, portKeys, uplinkKeys, tapKeys, userKeys) {
		if k.option != "" && k.name != strings.ReplaceAll(k.option, "-", "_") {
			t.Errorf("key %s is option %s", k.name, k.option)
		}
	}
}

// docs/configuration.md has a row for each key and block, and no others.
func TestKeysAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z_0-9]+)")
	for section, want := range documented() {
		_, text, ok := strings.Cut(string(doc), "\n## "+section+"\n")
		if !ok {
			t.Errorf("no section %q", section)
		}
		text, _, _ = strings.Cut(text, "\n## ")
		var got []string
		for _, m := range row.FindAllStringSubmatch(text, -1) {
			got = append(got, m[1])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("section %q:\n%s", section, diff)
		}
	}
}

// uplinkSections are the sections of the kinds of uplinks.
var uplinkSections = map[string]string{"tap": "Keys of an uplink of kind tap", "user": "Keys of an uplink of kind user"}

func documented() map[string][]string {
	if len(uplinkKinds) != len(uplinkSections) {
		panic("an uplink of a kind without a section")
	}
	names := func(keys []key) (list []string) {
		for _, k := range keys {
			list = append(list, k.name)
		}
		return list
	}
	return map[string][]string{
		"Settings": names(settingKeys), "Keys of a port": names(portKeys), "Blocks": blocks,
		"Keys of every uplink": names(uplinkKeys), uplinkSections["tap"]: names(tapKeys), uplinkSections["user"]: names(userKeys),
	}
}

// All values of all kinds that a key takes.
func TestFileValues(t *testing.T) {
	path := writeFile(t, "v.hcl", `
workers   = "1"
placement = "balance"
stats     = "1m30s"
output    = "json"
log_level = "warn"
socket_mode  = 600
socket_owner = 7
port "a" {
  socket = "@a"
  socket_mode = "0666"
  mtu    = "9000"
  trunk  = [1, "3-5", "7"]
  transparent = true
  protected   = false
  frontend = "libkrun"
  mask = ["mq"]
}
port "b" { socket = "fd:1000" }
uplink "tap" "tap1" {}
switch "s" {
  uplink "tap" "lan" {
    device = "tap0"
    queues = 2
    mode   = "interrupt"
    trunk  = [10]
    native = 10
  }
  uplink "user" "internet" {
    host    = true
    ipv4    = "10.1.0.1/24"
    mtu     = 9000
    forward = ["tcp/[::1]:80/10.1.0.5:80", "udp/127.0.0.1:53/10.1.0.5:53"]
    domain  = "lab.test"
    leases  = "/run/leases"
    reserve = ["web/10.1.0.20"]
    ntp     = ["192.0.2.1"]
    resolver  = ["192.0.2.53"]
    boot      = "/srv/boot"
    boot_file = ["bios=undionly.kpxe", "menu"]
  }
  uplink "tap" "given" {
    device    = "fd:1001+1002"
    protected = true
  }
}
`)
	want, err := parseArgs(t, "--workers", "1", "--placement", "balance", "--stats", "1m30s", "-o", "json", "--log-level", "warn",
		"--socket-mode", "600", "--socket-owner", "7", "--port", "a=@a,switch=s,socket-mode=666,mtu=9000,trunk=1+3-5+7,transparent=on,frontend=libkrun,mask=mq",
		"--port", "b=fd:1000,switch=s", "--uplink", "tap:tap1,switch=s", "--uplink", "tap:tap0,name=lan,switch=s,queues=2,mode=interrupt,trunk=10,native=10",
		"--uplink", "user,host=on,ipv4=10.1.0.1/24,switch=s,mtu=9000,forward=tcp/[::1]:80/10.1.0.5:80,forward=udp/127.0.0.1:53/10.1.0.5:53,domain=lab.test,leases=/run/leases,reserve=web/10.1.0.20,ntp=192.0.2.1,resolver=192.0.2.53:53,boot=/srv/boot,boot-file=bios=undionly.kpxe,boot-file=menu",
		"--uplink", "tap:fd:1001+1002,name=given,switch=s,protected=on")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseArgs(t, "--config", path)
	if err != nil {
		t.Fatal(err)
	}
	sameConfig(t, "file", got, want)
	// Flags go before the file, also where they say what is the default.
	want.interval, want.balance = 0, false
	want.ports = append([]portSpec{{name: "c", path: "/c", fd: -1, access: socketAccess{mode: 0o600, owner: "7"}}}, want.ports...)
	if err := joinPorts(want.ports, hostID(), 0); err != nil {
		t.Fatal(err)
	}
	got, err = parseArgs(t, "--config", path, "--stats", "0", "--placement", "spread", "--port", "c=/c")
	if err != nil {
		t.Fatal(err)
	}
	sameConfig(t, "flags and file", got, want)
}

// badFile is a file with mistakes: place, and parts of the sentence. Several lines
// are several mistakes of one file.
type badFile struct {
	name, text string
	want       []string // lines, "LINE:COLUMN|words|words"
}

var badFiles = []badFile{
	{"a.hcl", "worker = 1\nport \"a\" { socket = \"/a\" }", []string{`1:1|"worker"|Did you mean "workers"?`}},
	{"a.hcl", "port \"a\" {\n  socket = \"/a\"\n  soket_mode = 1\n}", []string{`3:3|"soket_mode"|Did you mean "socket_mode"?`}},
	{"a.hcl", "prot \"a\" {}\nport \"b\" { socket = \"/a\" }", []string{`1:1|"prot"|Did you mean "port"?`}},
	{"a.hcl", "switch \"s\" {\n  workers = 1\n}\nport \"b\" { socket = \"/a\" }", []string{`2:3|"workers"`}},
	{"a.hcl", "switch \"s\" {\n port \"a\" { socket = \"/a\" }\n}\nswitch \"t\" {\n port \"b\" { socket = \"/b\" }\n}\nport \"c\" { socket = \"/c\" }", []string{`7:1|port "c"|several switches|s or t`}},
	{"a.hcl", "switch \"s\" {\n port \"a\" { socket = \"/a\" }\n}\nswitch \"t\" {\n port \"a\" { socket = \"/b\" }\n}", []string{`5:2|port "a"|another port has the name`}},
	{"a.hcl", "switch \"s\" {\n port \"a\" { socket = \"/a\" }\n}\nswitch \"t\" {\n port \"b\" {\n socket = \"/b\"\n mirror = \"a\"\n }\n}", []string{`5:2|port "b"|mirror=a|on the same switch`}},
	{"a.hcl", "switch \"s\" {\n port \"a\" {\n socket = \"/a\"\n switch = \"t\"\n }\n}", []string{`4:2|"switch"`}},
	{"a.hcl", "switch \"s s\" {\n port \"a\" { socket = \"/a\" }\n}", []string{`1:8|switch "s s"|at most 63`}},
	{"a.hcl", "port \"a\" {}", []string{`1:1|port "a"|no socket|/run/vhostnet/web.sock`}},
	{"a.hcl", "port \"-\" { socket = \"/a\" }\nport \"b\" { socket = \"/b\" }", []string{`1:6|port "-"|at most 63`}},
	{"a.hcl", "port { socket = \"/a\" }", []string{`1:6|name`}},
	{"a.hcl", "workers = 1\nworkers = 2\nport \"a\" { socket = \"/a\" }", []string{`2:1|workers`}},
	{"a.hcl", "workers = 1025\nport \"a\" { socket = \"/a\" }", []string{"1:11|workers=1025|1 to 1024"}},
	{"a.hcl", "workers = \"x\"\nport \"a\" { socket = \"/a\" }", []string{"1:11|workers=x|a number"}},
	{"a.hcl", "workers = true\nport \"a\" { socket = \"/a\" }", []string{"1:11|workers: want a string or a number"}},
	{"a.hcl", "workers = null\nport \"a\" { socket = \"/a\" }", []string{"1:11|workers: want a string or a number"}},
	{"a.hcl", "workers = cores\nport \"a\" { socket = \"/a\" }", []string{"1:11|Variables may not be used"}},
	{"a.hcl", "workers = max(1)\nport \"a\" { socket = \"/a\" }", []string{"1:11|Functions may not be called"}},
	{"a.hcl", "cpus = 1\nport \"a\" { socket = \"/a\" }", []string{"1:8|cpus: want a list"}},
	{"a.hcl", "cpus = [0, true]\nport \"a\" { socket = \"/a\" }", []string{"1:8|cpus: in the list"}},
	{"a.hcl", "cpus = [0, 0]\nport \"a\" { socket = \"/a\" }", []string{"1:8|cpus=0,0|each CPU once"}},
	{"a.hcl", "placement = \"best\"\nport \"a\" { socket = \"/a\" }", []string{"1:13|placement=best|spread or balance"}},
	{"a.hcl", "stats = 1\nport \"a\" { socket = \"/a\" }", []string{"1:9|stats=1|500ms, 1s"}},
	{"a.hcl", "stats = \"1ms\"\nlog_level = \"loud\"\nport \"a\" { socket = \"/a\" }", []string{"1:9|stats=1ms|at least 10ms", "2:13|log-level=loud|trace"}},
	{"a.hcl", "socket_mode = \"rw\"\nsocket_owner = \"no-such-user\"\nport \"a\" { socket = \"/a\" }", []string{"1:15|socket-mode=rw|0660", "2:16|socket-owner=no-such-user|name or number"}},
	{"a.hcl", "port \"a\" {\n  socket = \"/a\"\n  protected = \"on\"\n}", []string{`3:15|port "a"|protected: want true or false`}},
	{"a.hcl", "port \"a\" {\n  socket = \"/a\"\n  trunk = []\n}", []string{`3:11|port "a"|trunk=: want VLANs`}},
	{"a.hcl", "port \"a\" {\n  socket = \"/a\"\n  mtu = 67\n  pairs = 0\n mac = \"1\"\n}", []string{`3:9|port "a"|mtu=67|68 to 65535`, `4:11|pairs=0`, `5:8|mac=1|52:54:`}},
	{"a.hcl", "port \"a\" {\n  socket = \"\"\n}", []string{`2:12|port "a"|path|missing`}},
	{"a.hcl", "port \"a\" {\n  socket = \"fd:7\"\n role = \"connect\"\n}", []string{`1:1|port "a"|role=connect|want a path`}},
	{"a.hcl", "port \"a\" { socket = \"/a\" }\nport \"a\" { socket = \"/b\" }\nport \"c\" { socket = \"/a\" }", []string{`2:1|port "a"|another port has the name`, `3:1|port "c"|already the socket of port a`}},
	{"a.hcl", "port \"a\" {\n socket = \"/a\"\n mirror = \"b\"\n}", []string{`1:1|port "a"|mirror=b: want the name of another port`}},
	{"a.hcl", "uplink \"tun\" \"t\" {}\nport \"a\" { socket = \"/a\" }", []string{`1:1|uplink "tun" "t"|kind "tun"; want`}},
	{"a.hcl", "uplink \"user\" \"u\" {\n forward = [\"x\", \"y\"]\n}", []string{`2:12|uplink "user" "u"|forward=x: want`, `2:12|forward=y: want`}},
	{"a.hcl", "uplink \"user\" \"u\" {\n forward = \"x\"\n host = \"on\"\n}", []string{`2:12|forward: want a list`, `3:9|host: want true or false`}},
	{"a.hcl", "uplink \"tap\" {}\nport \"a\" { socket = \"/a\" }", []string{`1:14|name`}},
	{"a.hcl", "uplink \"tap\" \"a b\" {}", []string{`1:1|a port called "a b"`}},
	{"a.hcl", "uplink \"tap\" \"t\" {\n queue = 2\n}", []string{`2:2|"queue"|Did you mean "queues"?`}},
	{"a.hcl", "uplink \"tap\" \"t\" {\n queues = 0\n device = \"a/b\"\n}", []string{`1:1|uplink "tap" "t"|name of an interface`, `2:11|queues=0: want 1 to 256`}},
	{"a.hcl", "uplink \"tap\" \"t\" {\n queues = 2\n device = \"fd:7\"\n}", []string{`1:1|queues: an inherited device`}},
	{"a.hcl", "port \"a\" { socket = ", []string{`1:21|expression`}},
	{"a.hcl", "workers = " + strings.Repeat("[", 200_000), []string{"1:111|nested deeper than 100"}},
	{"a.hcl", "workers = " + strings.Repeat("!-", 100_000), []string{"1:111|nested deeper than 100"}},
	{"a.hcl.json", strings.Repeat(`{"port":`, 20_000), []string{"|exceeded max depth"}},
	{"a.hcl.json", "{\n \"worker\": 1, \"port\": {\"a\": {\"socket\": \"/a\"}}}", []string{`2:2|"worker"|Did you mean "workers"?`}},
	{"a.hcl.json", "{\n \"port\": {\"a\": {\"socket\": \"/a\", \"mtu\": 5}}}", []string{`2:40|port "a"|mtu=5`}},
	{"a.hcl.json", "{\n \"port\": }", []string{`2:10|invalid character`}},
	{"a.hcl.json", "workers = 1", []string{`1:1|invalid character`}},
	{"a.hcl", "", []string{"1:1|no port is described|port \"web\""}},
}

// TestBadFiles: check says every mistake with its place, in both forms, and
// ends with code 2; run refuses the file in one line that has them all.
func TestBadFiles(t *testing.T) {
	vutest.CheckLeaks(t)
	for _, c := range slices.Concat(badFiles, badNetworks) {
		path := writeFile(t, c.name, c.text)
		code, out, log := runHere(ended(), "check", path)
		lines := strings.Split(strings.TrimSuffix(log, "\n"), "\n")
		if code != exitUsage || out != "" || len(lines) != len(c.want)+1 || lines[len(c.want)] != fmt.Sprintf("vhostnet: %s: mistakes: %d", path, len(c.want)) {
			t.Errorf("check of %.200q: exit code %d, output %q, log:\n%.1000s", c.text, code, out, log)
			continue
		}
		_, _, one := runHere(ended(), "run", path)
		for i, want := range c.want {
			place, words, _ := strings.Cut(want, "|")
			if place != "" && place[0] >= '0' && place[0] <= '9' && !strings.HasPrefix(lines[i], path+":"+place+": ") || !hasAll(lines[i], strings.Split(words, "|")...) {
				t.Errorf("check of %.200q: line %d is %q, want %q", c.text, i, lines[i], want)
			}
			if !strings.Contains(one, lines[i]) || strings.Count(one, "\n") != 1 {
				t.Errorf("run of %.200q says %q, and check %q", c.text, one, lines[i])
			}
		}
		code, out, _ = runHere(ended(), "check", path, "-o", "json")
		var report fileReport
		if err := json.Unmarshal([]byte(out), &report); err != nil || code != exitUsage || report.Valid || report.File != path || len(report.Mistakes) != len(c.want) {
			t.Errorf("check of %.200q in JSON: exit code %d, %v, %+v", c.text, code, err, report)
			continue
		}
		for i, m := range report.Mistakes {
			if m.line(path) != lines[i] {
				t.Errorf("check of %.200q in JSON: %+v, and as text %q", c.text, m, lines[i])
			}
		}
	}
}

func TestUnreadableFile(t *testing.T) {
	long := writeFile(t, "a.hcl", "#"+strings.Repeat("x", maxFile))
	for _, args := range []string{"check " + long, "run /nowhere/a.hcl", "check /nowhere/a.hcl", "run --config /nowhere/a.hcl", "check /"} {
		code, out, log := runHere(ended(), strings.Fields(args)...)
		if code != exitUsage || out != "" || !hasAll(log, "configuration file", "see vhostnet run --help") {
			t.Errorf("%s: exit code %d, output %q, log %q", args, code, out, log)
		}
	}
}

// What check says of a right file.
func TestCheckFile(t *testing.T) {
	path := writeFile(t, "a.hcl", "workers = 3\nswitch \"s\" {\n port \"a\" {\n socket = \"/a\"\n trunk = [9, 2, 3, 4, 7]\n native = 9\n }\n}\nport \"bb\" {\n socket = \"@b\"\n role = \"connect\"\n vlan = 7\n mac = \"02:00:00:00:00:09\"\n}\nport \"c\" { socket = \"fd:900\" }\n")
	code, out, log := runHere(ended(), "check", path)
	lines := strings.Split(out, "\n")
	if code != exitDone || log != "" || len(lines) != 6 || lines[0] != path+": ports: 3, workers: 3" || !hasAll(lines[2], "a ", " /a ", " listen ", " 02:", " 2-4+7+9,native 9") ||
		strings.Join(strings.Fields(lines[3]), " ") != "bb @b connect 02:00:00:00:00:09 adaptive 7 s" || !hasAll(lines[4], "c ", " fd:900 ", " -") {
		t.Errorf("exit code %d, log %q, output:\n%s", code, log, out)
	}
	code, out, log = runHere(ended(), "check", path, "-o", "json")
	var r fileReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitDone || log != "" || !r.Valid || r.Workers != 3 || len(r.Ports) != 3 ||
		r.Ports[1] != (filePortReport{"bb", "@b", "connect", "02:00:00:00:00:09", "adaptive", "s", "7"}) {
		t.Errorf("exit code %d, %v, log %q, %s", code, err, log, out)
	}
}

// The program runs what a file describes, by either name.
func TestRunFile(t *testing.T) {
	vutest.CheckLeaks(t)
	for _, flag := range [][]string{nil, {"--config"}} {
		dir := t.TempDir()
		path := writeFile(t, "v.hcl", fmt.Sprintf("workers = 1\nport \"a\" {\n socket = \"%s/a.sock\"\n socket_mode = \"0666\"\n}\n", dir))
		code, out, log := runHere(ended(), append(append([]string{"run"}, flag...), path)...)
		if code != exitDone || out != "" || !hasAll(log, "port is open", "port=a", "socket="+dir+"/a.sock", "workers=1") {
			t.Errorf("%v: exit code %d, output %q, log %q", flag, code, out, log)
		}
	}
}

// Any bytes are a configuration or have a mistake whose line begins with the
// file's name.
func FuzzFile(f *testing.F) {
	for _, name := range []string{exampleFile, exampleFile + ".json"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, strings.HasSuffix(name, ".json"))
	}
	for _, c := range badFiles {
		if len(c.text) < 1000 {
			f.Add([]byte(c.text), strings.HasSuffix(c.name, ".json"))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, asJSON bool) {
		name := "f.hcl"
		if asJSON {
			name = "f.json"
		}
		path := writeFile(t, name, string(text))
		o := &runOptions{file: path, flags: pflag.NewFlagSet("", pflag.ContinueOnError)}
		c, err := o.parse()
		if err == nil && len(c.ports) == 0 {
			t.Errorf("no port and no mistake in %q", text)
		}
		for _, m := range mistakesOf(err) {
			if !strings.Contains(m.Error(), path) {
				t.Errorf("%q: a mistake without the file: %v", text, m)
			}
		}
	})
}
