package boot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var start = time.Unix(1_000_000, 0)

// contents is n bytes that are the same each time and differ from place to place.
func contents(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

// newDirectory makes a directory with files, and around it what must not be
// reached.
func newDirectory(t testing.TB, files map[string][]byte) (*Directory, string) {
	t.Helper()
	outside := t.TempDir()
	dir := filepath.Join(outside, "boot")
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "sub"), 0o700))
	must(os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	must(os.Symlink("../secret", filepath.Join(dir, "leak")))
	must(os.Symlink("/etc/passwd", filepath.Join(dir, "sub", "passwd")))
	must(os.Symlink("..", filepath.Join(dir, "sub", "up")))
	must(os.Symlink("../..", filepath.Join(dir, "sub", "out")))
	for name, b := range files {
		must(os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	d, err := Open(dir)
	must(err)
	t.Cleanup(func() { must(d.Close()) })
	return d, dir
}

// client is one that reads, on a link that loses what it is told to.
type client struct {
	t    testing.TB
	s    *TFTP
	peer Peer
	now  time.Time
	lose func(packet int) bool

	packets int // that the server sent
	inbox   [][]byte
	got     []byte
	options string // of the server's answer
	failed  string
}

func newClient(t testing.TB, s *TFTP, port uint16) *client {
	return &client{t: t, s: s, now: start, peer: Peer{Guest: "web", Addr: netip.AddrPortFrom(netip.MustParseAddr("10.0.2.15"), port)}}
}

func (c *client) deliver(m []byte) {
	c.packets++
	if c.lose == nil || !c.lose(c.packets) {
		c.inbox = append(c.inbox, bytes.Clone(m))
	}
}

func (c *client) say(m []byte) { c.s.Answer(c.now, c.peer, m, c.deliver) }

// read reads a file to its end, or until an error, or until nothing comes any
// more.
func (c *client) read(name, mode string, options ...string) []byte {
	c.say(append([]byte{0, opRead}, strings.Join(append([]string{name, mode}, options...), "\x00")+"\x00"...))
	block := defaultBlock
	window, inWindow := 1, 0
	for next := int64(1); ; {
		if len(c.inbox) == 0 {
			at, ok := c.s.Next()
			if !ok {
				return c.got
			}
			c.now = at
			c.s.Resend(c.now, func(p Peer, m []byte) {
				if p == c.peer {
					c.deliver(m)
				}
			})
			continue
		}
		m := c.inbox[0]
		c.inbox = c.inbox[1:]
		switch m[1] {
		case opError:
			c.failed = string(m[4 : len(m)-1])
			return nil
		case opOAck:
			c.options = string(m[2:])
			words := strings.Split(strings.TrimSuffix(c.options, "\x00"), "\x00")
			for i := 0; i+1 < len(words); i += 2 {
				switch words[i] {
				case "blksize":
					_, _ = fmt.Sscan(words[i+1], &block)
				case "windowsize":
					_, _ = fmt.Sscan(words[i+1], &window)
				}
			}
			c.say([]byte{0, opAck, 0, 0})
		case opData:
			number := binary.BigEndian.Uint16(m[2:])
			fresh := number == uint16(next)
			if fresh {
				c.got = append(c.got, m[4:]...)
				next++
				inWindow++
			}
			last := len(m) < 4+block
			if !fresh || inWindow == window || last {
				c.say(binary.BigEndian.AppendUint16([]byte{0, opAck}, uint16(next-1)))
				inWindow = 0
			}
			if fresh && last {
				return c.got
			}
		}
	}
}

func newServer(t testing.TB, files map[string][]byte) *TFTP {
	t.Helper()
	d, _ := newDirectory(t, files)
	s, err := NewTFTP(TFTPConfig{Directory: d})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Forget("")
		if n := s.slots.InUse(); n != 0 || len(s.transfers) != 0 {
			t.Errorf("%d slots and %d transfers are left", n, len(s.transfers))
		}
	})
	return s
}

func TestRead(t *testing.T) {
	files := map[string][]byte{}
	for _, n := range []int{0, 1, 511, 512, 513, 1024, 70000} {
		files[fmt.Sprint(n)] = contents(n)
	}
	s := newServer(t, files)
	port := uint16(1000)
	for name, want := range files {
		for _, o := range []struct{ asked, agreed string }{
			{"", ""},
			{"blksize|1400|tsize|0", fmt.Sprintf("blksize|1400|tsize|%d|", len(want))},
			{"BLKSIZE|9000|windowsize|8|timeout|3|unknown|1", "blksize|1428|windowsize|8|timeout|3|"},
			{"windowsize|1000|blksize|512", "windowsize|32|blksize|512|"},
			{"blksize|7|tsize|5|timeout|0|windowsize|0|blksize|x", ""},
		} {
			port++
			c := newClient(t, s, port)
			var options []string
			if o.asked != "" {
				options = strings.Split(o.asked, "|")
			}
			if got := c.read(name, "octet", options...); !bytes.Equal(got, want) {
				t.Errorf("%s with %q: %d bytes, want %d; %s", name, o.asked, len(got), len(want), c.failed)
			}
			if got := strings.ReplaceAll(c.options, "\x00", "|"); got != o.agreed {
				t.Errorf("%s with %q: agreed on %q, want %q", name, o.asked, got, o.agreed)
			}
		}
	}
	if n := s.Counters.Done.Value(); n != uint64(5*len(files)) || s.Counters.Resent.Value() != 0 {
		t.Errorf("%d read to the end, %d windows sent again", n, s.Counters.Resent.Value())
	}
}

// The numbers of blocks have 16 bits: after 65535 comes 0.
func TestNumbersWrap(t *testing.T) {
	want := contents(8 * 66000)
	s := newServer(t, map[string][]byte{"f": want})
	for port, window := range map[uint16]string{1: "1", 2: "32"} {
		c := newClient(t, s, port)
		if got := c.read("f", "octet", "blksize", "8", "windowsize", window); !bytes.Equal(got, want) {
			t.Errorf("window %s: %d bytes, want %d; %s", window, len(got), len(want), c.failed)
		}
	}
}

// A link that loses every third packet delivers all the same.
func TestReadWithLoss(t *testing.T) {
	want := contents(100_000)
	s := newServer(t, map[string][]byte{"kernel": want})
	for i, options := range [][]string{nil, {"blksize", "1400"}, {"windowsize", "4", "blksize", "1400"}, {"windowsize", "32"}} {
		c := newClient(t, s, uint16(2000+i))
		random := rand.New(rand.NewPCG(1, uint64(i)))
		c.lose = func(int) bool { return random.IntN(3) == 0 }
		if got := c.read("kernel", "octet", options...); !bytes.Equal(got, want) {
			t.Errorf("%v: %d bytes, want %d; %s", options, len(got), len(want), c.failed)
		}
	}
	if s.Counters.Resent.Value() == 0 {
		t.Error("nothing was sent again")
	}
}

// In lockstep an acknowledgement that is said twice is answered once.
func TestSorcerersApprentice(t *testing.T) {
	s := newServer(t, map[string][]byte{"f": contents(5000)})
	c := newClient(t, s, 1)
	c.say([]byte("\x00\x01f\x00octet\x00"))
	for block := range byte(4) {
		c.now = c.now.Add(time.Second / 2)
		for range 3 {
			c.say([]byte{0, opAck, 0, block + 1})
		}
	}
	if c.packets != 5 {
		t.Errorf("%d packets, want 5", c.packets)
	}
}

func TestGivesUp(t *testing.T) {
	s := newServer(t, map[string][]byte{"f": contents(5000)})
	for port, options := range map[uint16][]string{1: nil, 2: {"windowsize", "4"}} {
		c := newClient(t, s, port)
		c.lose = func(int) bool { return true }
		if got := c.read("f", "octet", options...); len(got) != 0 {
			t.Errorf("%d bytes", len(got))
		}
	}
	if n := s.Counters.Timeouts.Value(); n != 2 {
		t.Errorf("%d given up, want 2", n)
	}
}

func TestRefusals(t *testing.T) {
	s := newServer(t, map[string][]byte{"f": nil, "sub/g": []byte("g")})
	for i, c := range []struct{ name, mode, want string }{
		{"nothing", "octet", "no such file"},
		{"f/", "octet", ""},
		{"/f", "OCTET", ""},
		{`\sub\g`, "octet", ""},
		{"sub/up/f", "octet", ""},
		{"sub", "octet", "not a file to be had"},
		{"/", "octet", "no such file"},
		{"leak", "octet", "not a file to be had"},
		{"sub/passwd", "octet", "not a file to be had"},
		{"sub/out/secret", "octet", "not a file to be had"},
		{"../secret", "octet", "no such file"},
		{"sub/../../secret", "octet", "no such file"},
		{"/etc/passwd", "octet", "no such file"},
		{"f", "netascii", "only mode octet (binary) is served"},
		{"", "octet", "not understood"},
	} {
		got := newClient(t, s, uint16(3000+i))
		if got.read(c.name, c.mode); got.failed != c.want {
			t.Errorf("%q: %q, want %q", c.name, got.failed, c.want)
		}
	}
	for _, m := range []string{
		"", "\x00", "\x00\x01f", "\x00\x01f\x00octet", "\x00\x01f\x00octet\x00blksize\x00", "\x00\x02f\x00octet\x00",
		"\x00\x07xx", "\x00\x01" + strings.Repeat("a\x00", 60),
	} {
		c := newClient(t, s, 4000)
		c.say([]byte(m))
		if len(c.inbox) > 1 || len(c.inbox) == 1 && c.inbox[0][1] != opError {
			t.Errorf("%q is answered by %q", m, c.inbox)
		}
	}
	// Strangers' acknowledgements and errors are nobody's.
	c := newClient(t, s, 4001)
	c.say([]byte{0, opAck, 0, 1})
	if c.say([]byte{0, opError, 0, 0, 0}); c.packets != 0 {
		t.Errorf("%d answers", c.packets)
	}
}

// One guest's transfers leave room for others'.
func TestManyTransfers(t *testing.T) {
	s := newServer(t, map[string][]byte{"f": contents(5000)})
	for port := range uint16(100) {
		newClient(t, s, 1+port).say([]byte("\x00\x01f\x00octet\x00"))
	}
	if n := len(s.transfers); n != defaultPerGuest || s.Counters.TooMany.Value() != 100-defaultPerGuest {
		t.Errorf("%d transfers, %d refused", n, s.Counters.TooMany.Value())
	}
	again := newClient(t, s, 1)
	if again.say([]byte("\x00\x01f\x00octet\x00")); again.packets != 1 || len(s.transfers) != defaultPerGuest {
		t.Errorf("a request that is said again: %d packets, %d transfers", again.packets, len(s.transfers))
	}
	other := newClient(t, s, 1)
	other.peer.Guest = "db"
	if got := other.read("f", "octet"); len(got) != 5000 {
		t.Errorf("another got %d bytes: %s", len(got), other.failed)
	}
	// Asking too often is not even answered.
	c := newClient(t, s, 9)
	for range 1000 {
		c.say([]byte("\x00\x01none\x00octet\x00"))
	}
	if c.packets > requestsAtOnce {
		t.Errorf("%d answers to 1000 requests", c.packets)
	}
	c.say([]byte{0, opError, 0, 0, 0})
	s.Forget("web")
	if n := len(s.transfers); n != 0 {
		t.Errorf("%d transfers of a guest that has left", n)
	}
}

// A file that shrinks under way ends the transfer.
func TestFileShrinks(t *testing.T) {
	d, dir := newDirectory(t, map[string][]byte{"f": contents(5000)})
	s, err := NewTFTP(TFTPConfig{Directory: d})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, s, 1)
	c.say([]byte("\x00\x01f\x00octet\x00"))
	if err := os.Truncate(filepath.Join(dir, "f"), 600); err != nil {
		t.Fatal(err)
	}
	c.say([]byte{0, opAck, 0, 1})
	if m := c.inbox[len(c.inbox)-1]; m[1] != opError || len(s.transfers) != 0 {
		t.Errorf("%q, %d transfers", m, len(s.transfers))
	}
}

func TestNewTFTPRefuses(t *testing.T) {
	d, _ := newDirectory(t, nil)
	for want, cfg := range map[string]TFTPConfig{
		"without a directory": {},
		"512 to 65464":        {Directory: d, MaxBlock: 511},
		"transfers":           {Directory: d, PerGuest: -1},
	} {
		if _, err := NewTFTP(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a directory that is not there was opened")
	}
}

// FuzzTFTP: a program of packets, each with its length before it, leaves no
// more transfers than a guest may have, and every answer is one.
func FuzzTFTP(f *testing.F) {
	f.Add([]byte("\x0a\x00\x01f\x00octet\x00\x04\x00\x04\x00\x01\x04\x00\x04\x00\x02"))
	f.Add([]byte("\x1b\x00\x01f\x00octet\x00windowsize\x004\x00\x04\x00\x04\x00\x00"))
	d, _ := newDirectory(f, map[string][]byte{"f": contents(5000)})
	f.Fuzz(func(t *testing.T, program []byte) {
		s, err := NewTFTP(TFTPConfig{Directory: d})
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, s, 1)
		for len(program) > 0 {
			n := min(int(program[0]), len(program)-1)
			before := c.packets
			c.say(program[1 : 1+n])
			program = program[1+n:]
			c.now = c.now.Add(200 * time.Millisecond)
			if c.packets-before > maxWindow || len(s.transfers) > 1 {
				t.Fatalf("%d packets at once, %d transfers", c.packets-before, len(s.transfers))
			}
		}
		for _, m := range c.inbox {
			if len(m) < 4 || len(m) > 4+defaultMaxBlock || m[1] < opData || m[1] > opOAck {
				t.Fatalf("%q", m)
			}
		}
		s.Forget("")
	})
}
