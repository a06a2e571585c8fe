package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"vhostnet/vhostuser/vutest"
)

// badFlags are wrong values of flags of run, and what the one line about each
// has to say. PATH stands for a socket that could be made.
var badFlags = []struct {
	args string
	want []string
}{
	{"", []string{"no port", "--port web="}},
	{"--port", []string{"--port", "NAME=PATH"}},
	{"--port web", []string{"--port", `"web"`, "NAME=PATH"}},
	{"--port =PATH", []string{"--port", "NAME=PATH"}},
	{"--port -web=PATH", []string{"--port", "-web", "NAME=PATH"}},
	{"--port we/b=PATH", []string{"--port", "we/b", "letters, digits"}},
	{"--port " + strings.Repeat("n", 64) + "=PATH", []string{"--port", "at most 63"}},
	{"--port web=", []string{"--port web", "path", "missing"}},
	{"--port web=,mode=poll", []string{"--port web", "path", "missing"}},
	{"--port web=@", []string{"--port web", "abstract", "missing"}},
	{"--port web=fd:x", []string{"--port web", "fd:x", "fd:3", "./fd:x"}},
	{"--port web=fd:1000000", []string{"--port web=fd:1000000", "unix stream socket"}},
	{"--port web=fd:7 --port db=fd:7", []string{"--port db", "descriptor 7", "port web"}},
	{"--port web=PATH,inflight=yes", []string{"--port web", "inflight=yes", "on or off"}},
	{"--port web=PATH,role=both", []string{"--port web", "role=both", "listen", "connect"}},
	{"--port web=fd:7,role=connect", []string{"--port web", "role=connect", "want a path"}},
	{"--port web=PATH,role=connect,socket-mode=600", []string{"--port web", "role=connect", "front-end's affair"}},
	{"--port web=fd:7,socket-mode=600", []string{"--port web", "fd", "inherited"}},
	{"--port web=PATH,socket-mode=rw", []string{"--port web", "socket-mode=rw", "0660"}},
	{"--port web=PATH,socket-owner=no-such-user", []string{"--port web", "socket-owner=no-such-user", "name or number"}},
	{"--port web=PATH,socket-group=no-such-group", []string{"--port web", "socket-group=no-such-group", "name or number"}},
	{"--port web=/" + strings.Repeat("p", 200), []string{"--port web", "at most 107"}},
	{"--port web=PATH,", []string{"--port web", "unknown option", "mac, mode, mtu, pairs, mask, frontend, queue, static, switch, vlan, trunk, native, protected, mirror, sink, transparent, guest, guest-cid, guest-socket, guest-filters, role, inflight, socket-mode"}},
	{"--port web=PATH,colour=red", []string{"--port web", `"colour"`, "mac, mode"}},
	{"--port web=PATH,mac", []string{"--port web", "mac=", "52:54:"}},
	{"--port web=PATH,mac=1", []string{"--port web", "mac=1", "52:54:"}},
	{"--port web=PATH,mac=00:00:00:00:00:00", []string{"--port web", "mac=00:", "unicast"}},
	{"--port web=PATH,mac=ff:ff:ff:ff:ff:ff", []string{"--port web", "mac=ff:", "unicast"}},
	{"--port web=PATH,mac=01:00:5e:00:00:01", []string{"--port web", "mac=01:", "unicast"}},
	{"--port web=PATH,mac=02:00:5e:10:00:00:00:01", []string{"--port web", "mac=02:", "unicast"}},
	{"--port web=PATH,mode=fast", []string{"--port web", "mode=fast", "adaptive, poll or interrupt"}},
	{"--port web=PATH,mtu=67", []string{"--port web", "mtu=67", "68 to 65535"}},
	{"--port web=PATH,mtu=65536", []string{"--port web", "mtu=65536", "68 to 65535"}},
	{"--port web=PATH,mtu=1k", []string{"--port web", "mtu=1k", "68 to 65535"}},
	{"--port web=PATH,pairs=0", []string{"--port web", "pairs=0", "1 to 128"}},
	{"--port web=PATH,pairs=129", []string{"--port web", "pairs=129", "1 to 128"}},
	{"--port web=PATH,pairs=two", []string{"--port web", "pairs=two", "1 to 128"}},
	{"--port web=PATH,mask=csum+sparkle", []string{"--port web", "mask=csum+sparkle", `"sparkle"`, "mrg_rxbuf"}},
	{"--port web=PATH,mask=", []string{"--port web", "mask=", "mrg_rxbuf"}},
	{"--port web=PATH,mask=csum+", []string{"--port web", "mask=csum+", "mrg_rxbuf"}},
	{"--port web=PATH,frontend=vmware", []string{"--port web", "frontend=vmware", "qemu, cloud-hypervisor"}},
	{"--port web=PATH --port web=PATH2", []string{"--port web", "another port has the name"}},
	{"--port web=PATH --port db=PATH", []string{"--port db", "already the socket of port web"}},
	{"--port web=PATH --port db=DIR/./socket", []string{"--port db", "already the socket of port web"}},
	{"--port vm=PATH --socket-path PATH2", []string{"--port vm", "another port has the name"}},
	{"--port web=PATH --socket-path PATH", []string{"--port vm", "already the socket of port web"}},
	{"-p", []string{"--port", "NAME=PATH"}},
	{"--vm", []string{"--vm", "NAME"}},
	{"--vm a/b", []string{`--vm "a/b"`, "letters, digits"}},
	{"--vm web,mtu=1", []string{"--vm web", "mtu=1", "68 to 65535"}},
	{"--vm web,native=1", []string{"--vm web", "want trunk too"}},
	{"--vm web,role=connect", []string{"--vm web", "--port web=PATH,role=connect"}},
	{"--vm web --vm web", []string{"--vm web", "another port has the name"}},
	{"--uplink", []string{"--uplink", "KIND:WHERE"}},
	{"--uplink tun:t0", []string{"--uplink tun:t0", `kind "tun"`, "tap or user"}},
	{"--uplink user:x", []string{"--uplink user:x", "instead of user:x"}},
	{"--uplink user,host=1", []string{"--uplink user", "host=1", "on or off"}},
	{"--uplink user,ipv4=10.0.2.2", []string{"--uplink user", "ipv4=10.0.2.2", "10.0.2.2/24"}},
	{"--uplink user,ipv4=fd00::1/64", []string{"--uplink user", "ipv4=fd00::1/64", "10.0.2.2/24"}},
	{"--uplink user,ipv4=127.0.0.1/24", []string{"--uplink user", "127.0.0.1/24", "station's address"}},
	{"--uplink user,ipv6=fd00::1/65", []string{"--uplink user", "fd00::1/65", "length of 64"}},
	{"--uplink user,ipv4=10.0.2.0/24", []string{"--uplink user", "ipv4=10.0.2.0/24", "10.0.2.2/24"}},
	{"--uplink user,reserve=web/10.9.0.0,ipv4=10.9.0.1/16", []string{"--uplink user", "reserve=web/10.9.0.0", "address of the network 10.9.0.0/16", "10.9.0.2"}},
	{"--uplink user,mtu=1279", []string{"--uplink user", "mtu=1279", "1280 to 65535"}},
	{"--uplink user,mac=1", []string{"--uplink user", "mac=1"}},
	{"--uplink user,forward=tcp", []string{"--uplink user", "forward=tcp", "NETWORK/LISTEN/GUEST"}},
	{"--uplink user,forward=sctp/127.0.0.1:1/10.0.2.15:80", []string{"--uplink user", "NETWORK/LISTEN/GUEST"}},
	{"--uplink user,forward=tcp/127.0.0.1:0/192.0.2.1:80", []string{"--uplink user", "no guest's address"}},
	{"--uplink user,resolver=x", []string{"--uplink user", "resolver=x", "[2001:db8::53]:5353"}},
	{"--uplink user,ntp=x", []string{"--uplink user", "ntp=x", "time server"}},
	{"--uplink user,reserve=web", []string{"--uplink user", "reserve=web", "WHO/WHAT"}},
	{"--uplink user,reserve=web/a$b", []string{"--uplink user", "reserve=web/a$b", "WHO/WHAT"}},
	{"--uplink user,boot-file=ipxe=", []string{"--uplink user", "boot-file=ipxe=", "ipxe=menu.ipxe"}},
	{"--uplink user,boot-file=menu", []string{"--uplink user", "boot menu", "no directory to boot from"}},
	{"--uplink user,domain=", []string{"--uplink user", "domain: want a value"}},
	{"--uplink user,boot=/no/such/directory", []string{"--uplink user", "/no/such/directory"}},
	{"--uplink user,queues=2", []string{"--uplink user", `"queues"`, "host, ipv4"}},
	{"--uplink user --port internet=PATH", []string{"--uplink user", "another port has the name"}},
	{"--uplink tap", []string{"--uplink tap", "tap:tap0", "tap:fd:3"}},
	{"--uplink tap:a/b,name=a", []string{"--uplink tap:a/b", "name of an interface"}},
	{"--uplink tap:" + strings.Repeat("n", 16), []string{"--uplink tap:", "1 to 15 characters"}},
	{"--uplink tap:t0,name=a/b", []string{"--uplink tap:t0", "a/b", "letters, digits"}},
	{"--uplink tap:t0,queues=257", []string{"--uplink tap:t0", "queues=257", "1 to 256"}},
	{"--uplink tap:t0,colour=red", []string{"--uplink tap:t0", `"colour"`, "queues, mode, vlan"}},
	{"--uplink tap:t0,sink=on", []string{"--uplink tap:t0", "want a VM's port"}},
	{"--uplink tap:t0,vlan=4095", []string{"--uplink tap:t0", "vlan=4095"}},
	{"--uplink tap:t0,native=5", []string{"--uplink tap:t0", "want trunk too"}},
	{"--uplink tap:t0,mode=fast", []string{"--uplink tap:t0", "mode=fast"}},
	{"--uplink tap:fd:x", []string{"--uplink tap:fd:x", "fd:3+4"}},
	{"--uplink tap:fd:7+7", []string{"--uplink tap:fd:7+7", "fd:3+4"}},
	{"--uplink tap:fd:7,queues=2", []string{"--uplink tap:fd:7", "queues: an inherited device"}},
	{"--uplink tap:fd:1000000", []string{"--uplink tap:fd:1000000", "no queue of a TAP device"}},
	{"--uplink tap:lo", []string{"--uplink tap:lo", "TAP device lo"}},
	{"--uplink tap:web --port web=PATH", []string{"--uplink tap:web", "another port has the name"}},
	{"--port web=PATH,mirror=t0 --uplink tap:t0", []string{"--port web", "another port, of a VM"}},
	{"--config", []string{"--config", "FILE"}},
	{"--config PATH", []string{"configuration file", "no such file", "see vhostnet run --help"}},
	{"--config PATH PATH2", []string{"want one configuration file"}},
	{"PATH PATH2", []string{"second argument", "see vhostnet run --help"}},

	{"--socket-path", []string{"--socket-path", "PATH"}},
	{"--socket-path @", []string{"--port vm", "abstract", "missing"}},
	{"--socket-path PATH --fd 0", []string{"--socket-path", "--fd", "exclude"}},
	{"--fd", []string{"--fd", "N"}},
	{"--fd x", []string{"--fd x", "number of an inherited socket"}},
	{"--fd -1", []string{"--fd -1", "number of an inherited socket"}},
	{"--fd 99999999999", []string{"--fd 99999999999", "number of an inherited socket"}},
	{"--fd 1000000", []string{"--fd 1000000", "unix stream socket"}},

	{"--control", []string{"--control", "PATH"}},
	{"--control @name", []string{"--control @name", "path of a file"}},
	{"--port web=PATH --control DIR/none/control", []string{"--control", "directory must exist"}},
	{"--port web=PATH,queue=mine", []string{"--port web", "queue=mine", "auto", "manual"}},
	{"--port web=PATH,static=x", []string{"--port web", "static=x", "52:54:00:12:34:56"}},
	{"--port web=PATH,static=52:54:00:00:00:01/4095", []string{"--port web", "static=52:54:00:00:00:01/4095", "any"}},
	{"--port web=PATH,vlan=10,static=52:54:00:00:00:01/20", []string{"--port web", "static address", "VLAN 20"}},

	{"--port web=PATH,guest=all,guest-cid=3", []string{"--port web", "guest=all", "off, see or filters"}},
	{"--port web=PATH,guest=see", []string{"--port web", "guest-cid", "guest-socket"}},
	{"--port web=PATH,guest-cid=2", []string{"--port web", "guest-cid=2", "3 to 4294967294"}},
	{"--port web=PATH,guest-cid=4294967295", []string{"--port web", "guest-cid=4294967295", "3 to"}},
	{"--port web=PATH,guest-socket=", []string{"--port web", "guest-socket=", "path"}},
	{"--port web=PATH,guest-socket=@name", []string{"--port web", "guest-socket=@name", "path"}},
	{"--port web=PATH,guest-cid=3,guest-filters=0", []string{"--port web", "guest-filters=0", "1 to 256"}},
	{"--port web=PATH,guest-cid=3,guest-filters=9", []string{"--port web", "guest-filters=9", "guest=filters"}},
	{"--vm web,queue=manual,guest-cid=3,guest=filters", []string{"--vm web", "queue=manual", "guest=see"}},
	{"--port web=PATH,queue=manual,guest-cid=3,guest=filters", []string{"--port web", "queue=manual", "guest=see"}},
	{"--port web=PATH,guest-cid=3 --port db=PATH2,guest-cid=3", []string{"--port db", "guest-cid=3", "port web"}},
	{"--port web=PATH,guest-socket=DIR/v --port db=PATH2,guest-socket=DIR/v", []string{"--port db", "guest-socket=", "port web"}},
	{"--port web=PATH,guest-socket=DIR/none/v", []string{"--port web", "guest-socket=", "directory must exist"}},
	{"--port web=PATH --guest-port 4294967295", []string{"--guest-port 4294967295", "1 to 4294967294"}},
	{"--port web=PATH --guest-port x", []string{"--guest-port x", "number"}},

	{"--workers", []string{"--workers", "N"}},
	{"--port web=PATH --workers x", []string{"--workers x", "number"}},
	{"--port web=PATH --workers -1", []string{"--workers -1", "1 to 1024"}},
	{"--port web=PATH --workers 1025", []string{"--workers 1025", "1 to 1024"}},
	{"--cpus", []string{"--cpus", "LIST"}},
	{"--port web=PATH --placement best", []string{"--placement best", "spread or balance"}},
	{"--port web=PATH --cpus a", []string{"--cpus a", "0,2"}},
	{"--port web=PATH --cpus 0,", []string{"--cpus 0,", "0,2"}},
	{"--port web=PATH --cpus -1", []string{"--cpus -1", "0,2"}},
	{"--port web=PATH --cpus 0,0", []string{"--cpus 0,0", "each CPU once"}},
	{"--port web=PATH --cpus 0,1 --workers 3", []string{"--cpus 0,1", "3 workers"}},
	{"--port web=PATH --cpus 100000", []string{"--cpus 100000", "Cpus_allowed_list"}},

	{"--socket-mode", []string{"--socket-mode", "OCTAL"}},
	{"--port web=PATH --socket-mode 0", []string{"--socket-mode 0", "0660"}},
	{"--port web=PATH --socket-mode 0888", []string{"--socket-mode 0888", "0660"}},
	{"--port web=PATH --socket-mode 1777", []string{"--socket-mode 1777", "0660"}},
	{"--port web=PATH --socket-mode rw", []string{"--socket-mode rw", "0660"}},
	{"--socket-owner", []string{"--socket-owner", "USER"}},
	{"--port web=PATH --socket-owner no-such-user", []string{"--socket-owner no-such-user", "name or number"}},
	{"--socket-group", []string{"--socket-group", "GROUP"}},
	{"--port web=PATH --socket-group no-such-group", []string{"--socket-group no-such-group", "name or number"}},
	{"--port web=PATH --socket-group -1", []string{"--socket-group -1", "name or number"}},

	{"--state-dir", []string{"--state-dir", "DIR"}},
	{"--port web=PATH --state-dir /no/such/directory", []string{"--state-dir /no/such/directory", "exists"}},
	{"--port web=PATH --state-dir /dev/null", []string{"--state-dir /dev/null", "directory"}},

	{"--stats", []string{"--stats", "INTERVAL"}},
	{"--port web=PATH --stats 1", []string{"--stats 1", "500ms, 1s"}},
	{"--port web=PATH --stats 1ms", []string{"--stats 1ms", "at least 10ms"}},
	{"--port web=PATH --stats -1s", []string{"--stats -1s", "at least 10ms"}},
	{"--output", []string{"--output", "FORM"}},
	{"--port web=PATH --output xml", []string{"--output xml", "table or json"}},
	{"--port web=PATH -o xml", []string{"--output xml", "table or json"}},
	{"--log-format", []string{"--log-format", "FORM"}},
	{"--port web=PATH --log-format xml", []string{"--log-format xml", "text or json"}},
	{"--log-level", []string{"--log-level", "LEVEL"}},
	{"--port web=PATH --log-level loud", []string{"--log-level loud", "trace, debug, info, warn or error"}},
	{"--port web=PATH --log-level INFO", []string{"--log-level INFO", "info"}},

	{"--help=maybe", []string{"--help maybe", "true or false"}},
	{"--prot web=PATH", []string{"--prot", "did you mean --port?"}},
	{"--socket-paht PATH", []string{"--socket-paht", "did you mean --socket-path?"}},
	{"--sock PATH", []string{"--sock", "--socket-mode", "--socket-owner", "--socket-group", "--socket-path"}},
	{"--colour", []string{"--colour", "see vhostnet run --help"}},
	{"--print-capabilities", []string{"--print-capabilities", "see vhostnet run --help"}},
	{"-x", []string{"-x", "see vhostnet run --help"}},
	{"--=x", []string{"--=x", "see vhostnet run --help"}},
	{"web=PATH", []string{"web=", "see vhostnet run --help"}},
}

// badCommands are whole command lines that are wrong.
var badCommands = []struct {
	args string
	want []string
}{
	{"rnu", []string{`"rnu"`, "did you mean run?"}},
	{"r", []string{`"r"`, "did you mean run?"}},
	{"verion", []string{`"verion"`, "did you mean version?"}},
	{"serve", []string{`"serve"`, "see vhostnet --help"}},
	{"help rnu", []string{`"rnu"`, "did you mean run?"}},
	{"help serve", []string{`"serve"`, "see vhostnet --help"}},
	{"help run serve", []string{"serve"}},
	{"version 1", []string{"vhostnet version", `"1"`}},
	{"version --port web=PATH", []string{"--port", "vhostnet run has it"}},
	{"completion", []string{"completion", "bash, zsh or fish"}},
	{"conform", []string{"no back-end", "--socket /tmp/a.sock"}},
	{"conform PATH", []string{"conform", "no argument"}},
	{"conform --socket PATH --peer PATH", []string{"--peer", "another port"}},
	{"conform --socket PATH --timeout 1", []string{"--timeout 1", "500ms, 1s"}},
	{"conform --socket PATH --timeout 1ms", []string{"--timeout 1ms", "at least 10ms"}},
	{"conform --socket PATH -o xml", []string{"--output xml", "table or json"}},
	{"conform --socket PATH --only start-qemu-10", []string{"--only start-qemu-10", "did you mean", "start-qemu-10.0"}},
	{"conform --socket PATH --only everything", []string{"--only everything", "a report lists them"}},
	{"check", []string{"check takes one configuration file", "see vhostnet check --help"}},
	{"check PATH PATH2", []string{"check takes one configuration file"}},
	{"check PATH", []string{"configuration file", "no such file"}},
	{"check PATH -o xml", []string{"--output xml", "table or json"}},
	{"completion tcsh", []string{"completion tcsh", "bash, zsh or fish"}},
	{"completion bash zsh", []string{"completion zsh", "bash, zsh or fish"}},
	{"--port web=PATH", []string{"--port", "vhostnet run has it"}},
	{"--workers 2", []string{"--socket-path", "--fd", "vhostnet run"}},
	{"--socket-path @", []string{"--port vm", "abstract", "missing"}},
	{"--print", []string{"--print", "did you mean --print-capabilities?"}},
}

// TestWrongUsage: exit code 2, nothing on standard output, and exactly one line
// on standard error, which names the flag, the value and what is accepted.
func TestWrongUsage(t *testing.T) {
	vutest.CheckLeaks(t)
	check := func(prefix, args string, want []string) {
		t.Helper()
		dir := t.TempDir()
		replaced := strings.NewReplacer("PATH2", filepath.Join(dir, "second"), "PATH", filepath.Join(dir, "socket"), "DIR", dir).Replace(args)
		code, out, log := runHere(context.Background(), strings.Fields(prefix+replaced)...)
		line, rest, _ := strings.Cut(log, "\n")
		if code != exitUsage || out != "" || rest != "" || !strings.HasPrefix(line, "vhostnet: ") || !hasAll(line, want...) {
			t.Errorf("vhostnet %s%s: exit code %d, output %q, log %q; want code %d and one line with %q", prefix, args, code, out, log, exitUsage, want)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("vhostnet %s%s: left %v behind, %v", prefix, args, left, err)
		}
	}
	for _, c := range badFlags {
		check("run ", c.args, c.want)
	}
	for _, c := range badCommands {
		check("", c.args, c.want)
	}
}

// goodFlags are accepted values. PATH is as in badFlags, GROUP a group of the
// process, CPU a CPU that it may use.
var goodFlags = []string{
	"--port web=PATH",
	"-p web=PATH",
	"-pweb=PATH",
	"--port=web=PATH",
	"--port W.e-b_1=PATH",
	"--port " + "9" + strings.Repeat("n", 62) + "=PATH",
	"--port web=PATH --port db=PATH2",
	"--port web=PATH,mac=52:54:00:12:34:56",
	"--port web=PATH,mac=52-54-00-12-34-56",
	"--port web=PATH,mode=adaptive",
	"--port web=PATH,mode=poll",
	"--port web=PATH,mode=interrupt",
	"--port web=PATH,mtu=68",
	"--port web=PATH,mtu=65535",
	"--port web=PATH,pairs=1",
	"--port web=PATH,pairs=128",
	"--port web=PATH,mask=mrg_rxbuf+guest_tso4,mask=csum",
	"--port web=PATH,frontend=qemu",
	"--port web=PATH,frontend=cloud-hypervisor",
	"--port web=PATH,frontend=crosvm,mask=csum",
	"--port web=PATH,frontend=libkrun",
	"--port web=PATH,frontend=dpdk",
	"--port web=PATH,role=connect",
	"--port web=PATH,inflight=on",
	"--port web=PATH,role=listen,socket-mode=600,socket-owner=USER,socket-group=GROUP",
	"--port web=@vhostnet-test-good-usage",
	"--port web=fd:FD",
	"--port web=PATH,mode=interrupt,mac=02:00:00:00:00:01,mtu=9000,pairs=4,mask=mq,frontend=qemu",
	"--port web=PATH,queue=manual,static=52:54:00:00:00:01+52:54:00:00:00:02/any",
	"--port web=PATH,trunk=10+20,queue=auto,static=52:54:00:00:00:01/20",
	"--port web=PATH --control PATH2",
	"--port web=PATH,guest=off",
	"--port web=PATH,guest-socket=PATH2",
	"--port web=PATH,guest-socket=PATH2,guest=filters,guest-filters=256 --guest-port 4294967294",
	"--socket-path PATH",
	"--socket-path PATH,with,commas",
	"--port web=PATH --socket-path PATH2",
	"--port web=PATH --fd FD",
	"--fd FD",
	"--vm web --uplink none",
	"--port web=PATH --uplink user,domain=lab.test,leases=DIR/leases,reserve=web/10.0.2.20/fd76:686f:7374::20/www,reserve=52:54:00:00:00:07/10.0.2.21,resolver=127.0.0.1,resolver=[::1]:5353,ntp=192.0.2.1,boot=DIR,boot-file=menu,boot-file=ipxe=menu.ipxe",
	"--port web=PATH --uplink user,boot-file=http://192.0.2.1/menu?guest=web",
	"--port web=PATH --uplink user,name=out,host=on,ipv4=10.9.0.1/16,ipv6=fd99::1/64,mac=52:55:00:00:00:01,mtu=9000,vlan=7,forward=tcp/127.0.0.1:0/10.9.0.2:80,forward=tcp/127.0.0.1:0/web:80,forward=tcp/unix:PATH2/10.9.0.2:80",
	"--vm web --vm db,vlan=3,mac=52:54:00:12:34:56",
	"--port web=PATH --uplink tap:TAP",
	"--uplink tap:TAP,name=lan,queues=2,mode=interrupt,trunk=10+20,native=10,transparent=on",
	"--config CONFIG --port web=PATH",
	"CONFIG --port web=PATH",
	"--port web=PATH --workers 0",
	"--port web=PATH --workers 3",
	"--port web=PATH --cpus CPU",
	"--port web=PATH --state-dir RUN",
	"--port web=PATH --placement spread",
	"--port web=PATH --placement balance --workers 2",
	"--port web=PATH --cpus CPU --workers 1",
	"--port web=PATH --socket-mode 0600",
	"--port web=PATH --socket-mode 666",
	"--port web=PATH --socket-group GROUP",
	"--port web=PATH --socket-owner USER",
	"--port web=PATH --stats 0",
	"--port web=PATH --stats 10ms",
	"--port web=PATH --stats 1h30m",
	"--port web=PATH --output table",
	"--port web=PATH -o json",
	"--port web=PATH --log-format text",
	"--port web=PATH --log-format json",
	"--port web=PATH --log-level trace",
	"--port web=PATH --log-level debug",
	"--port web=PATH --log-level info",
	"--port web=PATH --log-level warn",
	"--port web=PATH --log-level error",
}

func TestGoodUsage(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	vutest.CheckLeaks(t)
	for _, args := range goodFlags {
		if strings.Contains(args, "TAP") && !canTAP() {
			continue
		}
		dir := t.TempDir()
		list, config := args, writeFile(t, "v.hcl", "workers = 2\nport \"db\" { socket = \"@vhostnet-test-file\" }\n")
		if strings.Contains(list, "FD") {
			list = strings.ReplaceAll(list, "FD", fmt.Sprint(listeningFD(t, filepath.Join(dir, "inherited"))))
		}
		if strings.Contains(list, "RUN") {
			list = strings.ReplaceAll(list, "RUN", runDirectory(t))
		}
		list = strings.NewReplacer("PATH2", filepath.Join(dir, "second"), "PATH", filepath.Join(dir, "socket"),
			"DIR", dir, "USER", fmt.Sprint(os.Getuid()), "GROUP", fmt.Sprint(os.Getgid()), "CPU", allowedCPU(t), "CONFIG", config, "TAP", fmt.Sprintf("vnu%d", os.Getpid())).Replace(list)
		code, out, log := runHere(ended(), append([]string{"run"}, strings.Fields(list)...)...)
		if code != exitDone || (out != "") != strings.Contains(args, "--vm") {
			t.Errorf("vhostnet run %s: exit code %d, output %q, log %q", args, code, out, log)
		}
		if quiet := strings.Contains(args, "warn") || strings.Contains(args, "level error"); quiet == strings.Contains(log, " is open") {
			t.Errorf("vhostnet run %s: the log is %q", args, log)
		}
		if left, err := filepath.Glob(filepath.Join(dir, "s*")); err != nil || len(left) != 0 {
			t.Errorf("vhostnet run %s: left %v behind, %v", args, left, err)
		}
	}
}

// canTAP reports whether TAP devices can be created here.
func canTAP() bool {
	_, err := os.Stat("/dev/net/tun")
	return err == nil && os.Geteuid() == 0
}

// runDirectory is a directory on a tmpfs.
func runDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vhostnet-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// listeningFD is a socket as a parent hands it over.
func listeningFD(t *testing.T, path string) int {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return dup(t, raw)
}

// Every flag has cases above, and every word that a flag takes is offered by
// the shell's completion and explained by its help.
func TestEveryFlagIsTested(t *testing.T) {
	bad := ""
	for _, c := range badFlags {
		bad += " " + c.args
	}
	good := strings.Join(goodFlags, " ")
	newRunCommand(&runOptions{}).Flags().VisitAll(func(f *pflag.Flag) {
		for _, list := range []string{bad, good} {
			if !strings.Contains(list, "--"+f.Name+" ") {
				t.Errorf("no case for --%s", f.Name)
			}
		}
	})
}

// The settings of all ports may be given to the bare program, too, as the
// conventions start it.
func TestConventionsTakeSettings(t *testing.T) {
	vutest.CheckLeaks(t)
	dir := t.TempDir()
	code, out, log := runHere(ended(), "--socket-path", filepath.Join(dir, "vm.sock"), "--socket-mode", "0600", "--log-format", "json", "--workers", "1", "-o", "json")
	if code != exitDone || out != "" || !hasAll(log, `"port":"vm"`, "vm.sock") {
		t.Errorf("exit code %d, output %q, log %q", code, out, log)
	}
}

func TestPrintCapabilities(t *testing.T) {
	for _, args := range []string{"--print-capabilities", "--print-capabilities --socket-path /nowhere/vm.sock", "--fd=x --print-capabilities ignored"} {
		code, out, log := runHere(context.Background(), strings.Fields(args)...)
		var got struct {
			Type     string    `json:"type"`
			Features *[]string `json:"features"`
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil || got.Type != "net" || got.Features == nil || code != exitDone || log != "" {
			t.Errorf("vhostnet %s: exit code %d, output %q, log %q, %v", args, code, out, log, err)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, args := range []string{"version", "--version", "-v"} {
		code, out, log := runHere(context.Background(), args)
		if code != exitDone || log != "" || strings.Count(out, "\n") != 1 || !hasAll(out, "vhostnet ", "go1.", "linux/") {
			t.Errorf("vhostnet %s: exit code %d, output %q, log %q", args, code, out, log)
		}
	}
}
