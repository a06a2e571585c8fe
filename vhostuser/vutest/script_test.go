package vutest_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// script is a back-end that moves no frame: it answers what must be answered
// and writes down what it was told.
type script struct {
	protocol vhostuser.Protocol // offered
	alter    func(r vhostuser.Request, reply []byte) [][]byte

	mu     sync.Mutex
	said   []string
	status vhostuser.U64
}

// listen runs s behind a socket for the time of a test.
func (s *script) listen(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "script.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			u, err := l.AcceptUnix()
			if err != nil {
				return
			}
			c, err := sys.NewConn(u)
			if err != nil {
				return
			}
			s.serve(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return path
}

// serve reads messages until the front-end leaves, or sends what cannot be
// read.
func (s *script) serve(c *sys.Conn) {
	for {
		head := make([]byte, vhostuser.HeaderLen)
		n, fds, err := c.Recv(head, vhostuser.MaxFDs)
		sys.CloseAll(fds)
		if err != nil || n != len(head) {
			return
		}
		h, err := vhostuser.ParseHeader(head)
		if err != nil || h.Check() != nil {
			return
		}
		payload := make([]byte, h.Size)
		if h.Size > 0 {
			if n, _, err := c.Recv(payload, 0); err != nil || n != len(payload) {
				return
			}
		}
		reply := s.answer(h, payload, len(fds))
		if reply == nil {
			continue
		}
		parts := [][]byte{vhostuser.Message(h.Request, vhostuser.ReplyFlags, reply)}
		if s.alter != nil {
			parts = s.alter(h.Request, parts[0])
		}
		for _, part := range parts {
			if err := c.Send(part, nil); err != nil {
				return
			}
		}
	}
}

func (s *script) answer(h vhostuser.Header, payload []byte, fds int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, describe(h, payload, fds))
	switch h.Request {
	case vhostuser.GetFeatures:
		return vhostuser.U64(echoFeatures | virtio.ProtocolFeatures).Marshal()
	case vhostuser.GetProtocolFeatures:
		return vhostuser.U64(s.protocol).Marshal()
	case vhostuser.GetQueueNum:
		return vhostuser.U64(16).Marshal()
	case vhostuser.GetMaxMemSlots:
		return vhostuser.U64(509).Marshal()
	case vhostuser.GetStatus:
		return s.status.Marshal()
	case vhostuser.SetStatus:
		_ = s.status.Unmarshal(payload)
	case vhostuser.GetVringBase:
		return append(payload[:4:4], 0, 0, 0, 0)
	}
	if h.NeedReply() {
		return vhostuser.U64(0).Marshal()
	}
	return nil
}

// describe writes a message in one word: its name without SET_VRING_, its
// numbers, a plus for each descriptor, an exclamation mark when it wants an
// acknowledgement.
func describe(h vhostuser.Header, payload []byte, fds int) string {
	word := strings.TrimPrefix(h.Request.String(), "SET_VRING_")
	switch h.Request {
	case vhostuser.SetVringNum, vhostuser.SetVringBase, vhostuser.SetVringEnable:
		var v vhostuser.VringState
		_ = v.Unmarshal(payload)
		word += fmt.Sprintf("%d=%d", v.Index, v.Num)
	case vhostuser.GetVringBase:
		var v vhostuser.VringState
		_ = v.Unmarshal(payload)
		word += fmt.Sprint(v.Index)
	case vhostuser.SetVringAddr:
		var v vhostuser.VringAddr
		_ = v.Unmarshal(payload)
		word += fmt.Sprint(v.Index)
	case vhostuser.SetVringKick, vhostuser.SetVringCall, vhostuser.SetVringErr:
		var v vhostuser.VringFD
		_ = v.Unmarshal(payload)
		word += fmt.Sprint(v.Index)
		if v.NoFD {
			word += "-"
		}
	case vhostuser.SetStatus, vhostuser.NetSetMTU:
		var u vhostuser.U64
		_ = u.Unmarshal(payload)
		word += fmt.Sprintf("=%d", u)
	}
	word += strings.Repeat("+", fds)
	if h.NeedReply() {
		word += "!"
	}
	return word
}

// take returns what was said since the last call.
func (s *script) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := strings.Join(s.said, " ")
	s.said = nil
	return said
}

// words joins lines as take joins what was said.
func words(text string) string { return strings.Join(strings.Fields(text), " ") }

// sequences is what each front-end says, with everything offered that a net
// device of this module offers: at the first start, at a stop, and when the
// rings go on.
var sequences = []struct {
	options           vutest.Options
	start, stop, cont string
}{
	{
		vutest.Options{Kind: vutest.QEMU10},
		`GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM GET_MAX_MEM_SLOTS SET_OWNER GET_FEATURES
		 CALL0+ ERR0+ CALL1+ ERR1+
		 ENABLE0=1! ENABLE1=1!
		 ENABLE0=1! ENABLE1=1! SET_FEATURES GET_STATUS SET_STATUS=8 ADD_MEM_REG+! ADD_MEM_REG+! ADD_MEM_REG+!
		 NUM0=256 BASE0=0 ADDR0 KICK0+ CALL0+
		 NUM1=256 BASE1=0 ADDR1 KICK1+ CALL1+
		 GET_STATUS SET_STATUS=15`,
		`GET_VRING_BASE0 GET_VRING_BASE1 SET_STATUS=0`,
		`ENABLE0=1! ENABLE1=1! SET_FEATURES GET_STATUS SET_STATUS=8
		 NUM0=256 BASE0=0 ADDR0 KICK0+ CALL0+
		 NUM1=256 BASE1=0 ADDR1 KICK1+ CALL1+
		 GET_STATUS SET_STATUS=15`,
	},
	{
		vutest.Options{Kind: vutest.QEMU72, MTU: 9000, ProtocolMask: vhostuser.ProtocolMemSlots | vhostuser.ProtocolStatus},
		`GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM SET_OWNER GET_FEATURES
		 CALL0+ ERR0+ CALL1+ ERR1+
		 ENABLE0=1 ENABLE1=1
		 NET_SET_MTU=9000!
		 ENABLE0=1 ENABLE1=1 SET_FEATURES SET_MEM_TABLE+++!
		 NUM0=256 BASE0=0 ADDR0 KICK0+ CALL0+
		 NUM1=256 BASE1=0 ADDR1 KICK1+ CALL1+`,
		`GET_VRING_BASE0 GET_VRING_BASE1`,
		`NET_SET_MTU=9000!
		 ENABLE0=1 ENABLE1=1 SET_FEATURES SET_MEM_TABLE+++!
		 NUM0=256 BASE0=0 ADDR0 KICK0+ CALL0+
		 NUM1=256 BASE1=0 ADDR1 KICK1+ CALL1+`,
	},
	{ // two pairs: all are set up, one is enabled, the guest's command enables the other
		vutest.Options{Kind: vutest.QEMU10, Pairs: 2, ProtocolMask: vhostuser.ProtocolReplyAck | vhostuser.ProtocolStatus},
		`GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM GET_MAX_MEM_SLOTS SET_OWNER GET_FEATURES
		 CALL0+ ERR0+ CALL1+ ERR1+
		 GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_MAX_MEM_SLOTS GET_FEATURES
		 CALL2+ ERR2+ CALL3+ ERR3+
		 ENABLE0=1 GET_FEATURES ENABLE1=1 GET_FEATURES ENABLE2=0 GET_FEATURES ENABLE3=0 GET_FEATURES
		 ENABLE0=1 GET_FEATURES ENABLE1=1 GET_FEATURES SET_FEATURES ADD_MEM_REG+ ADD_MEM_REG+ ADD_MEM_REG+
		 NUM0=256 BASE0=0 ADDR0 KICK0+ CALL0+
		 NUM1=256 BASE1=0 ADDR1 KICK1+ CALL1+
		 SET_FEATURES
		 NUM2=256 BASE2=0 ADDR2 KICK2+ CALL2+
		 NUM3=256 BASE3=0 ADDR3 KICK3+ CALL3+
		 ENABLE0=1 GET_FEATURES ENABLE1=1 GET_FEATURES ENABLE2=1 GET_FEATURES ENABLE3=1 GET_FEATURES`,
		`GET_VRING_BASE0 GET_VRING_BASE1 GET_VRING_BASE2 GET_VRING_BASE3`,
		`ENABLE0=1 GET_FEATURES ENABLE1=1 GET_FEATURES SET_FEATURES
		 NUM0=256 BASE0=0 ADDR0 KICK0+ CALL0+
		 NUM1=256 BASE1=0 ADDR1 KICK1+ CALL1+
		 ENABLE2=1 GET_FEATURES ENABLE3=1 GET_FEATURES SET_FEATURES
		 NUM2=256 BASE2=0 ADDR2 KICK2+ CALL2+
		 NUM3=256 BASE3=0 ADDR3 KICK3+ CALL3+`,
	},
	{
		vutest.Options{Kind: vutest.VirtioUser},
		`SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES
		 CALL0+ CALL1+ SET_FEATURES SET_STATUS=11! GET_STATUS SET_MEM_TABLE++!
		 NUM0=256 BASE0=0 ADDR0 KICK0+
		 NUM1=256 BASE1=0 ADDR1 KICK1+
		 ENABLE0=1 ENABLE1=1 SET_STATUS=15!`,
		`ENABLE0=0 ENABLE1=0 GET_VRING_BASE0 GET_VRING_BASE1`,
		`CALL0+ CALL1+ SET_FEATURES SET_STATUS=11! GET_STATUS SET_MEM_TABLE++!
		 NUM0=256 BASE0=0 ADDR0 KICK0+
		 NUM1=256 BASE1=0 ADDR1 KICK1+
		 ENABLE0=1 ENABLE1=1 SET_STATUS=15!`,
	},
	{ // the base is the avail index: 4 receive buffers are posted
		vutest.Options{Kind: vutest.CloudHypervisor, Guest: vutest.Guest{RingSize: 4, NoVector: true}},
		`SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM
		 SET_FEATURES! SET_MEM_TABLE++++! NUM0=4! NUM1=4!
		 ADDR0! BASE0=4! KICK0+!
		 ADDR1! BASE1=0! KICK1+!
		 ENABLE0=1! ENABLE1=1!`,
		`ENABLE0=0! GET_VRING_BASE0 ENABLE1=0! GET_VRING_BASE1`,
		`SET_FEATURES! SET_MEM_TABLE++++! NUM0=4! NUM1=4!
		 ADDR0! BASE0=4! KICK0+!
		 ADDR1! BASE1=0! KICK1+!
		 ENABLE0=1! ENABLE1=1!`,
	},
	{
		vutest.Options{Kind: vutest.Crosvm},
		`SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM
		 SET_FEATURES SET_MEM_TABLE++
		 NUM0=256 ADDR0 BASE0=0 CALL0+ KICK0+ ENABLE0=1
		 NUM1=256 ADDR1 BASE1=0 CALL1+ KICK1+ ENABLE1=1`,
		`ENABLE0=0 GET_VRING_BASE0 ENABLE1=0 GET_VRING_BASE1`,
		`SET_MEM_TABLE++
		 NUM0=256 ADDR0 BASE0=0 CALL0+ KICK0+ ENABLE0=1
		 NUM1=256 ADDR1 BASE1=0 CALL1+ KICK1+ ENABLE1=1`,
	},
	{
		vutest.Options{Kind: vutest.Libkrun},
		`GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM
		 SET_OWNER SET_MEM_TABLE++ SET_FEATURES
		 NUM0=256 BASE0=0 ADDR0 KICK0+ CALL0+ ENABLE0=1
		 NUM1=256 BASE1=0 ADDR1 KICK1+ CALL1+ ENABLE1=1`,
		`ENABLE0=0 ENABLE1=0 GET_FEATURES`,
		`SET_OWNER SET_MEM_TABLE++ SET_FEATURES
		 NUM0=256 BASE0=0 ADDR0 KICK0+ CALL0+ ENABLE0=1
		 NUM1=256 BASE1=0 ADDR1 KICK1+ CALL1+ ENABLE1=1`,
	},
}

func TestSequences(t *testing.T) {
	for _, c := range sequences {
		t.Run(fmt.Sprintf("%s-%d", c.options.Kind, c.options.Pairs), func(t *testing.T) {
			vutest.CheckLeaks(t)
			s := &script{protocol: vhostuser.Offered}
			f := vutest.Connect(t, s.listen(t), c.options)
			ctx := timeout(t)
			start := func(ctx context.Context) error {
				_, err := f.Start(ctx)
				return err
			}
			for _, step := range []struct {
				name string
				do   func(context.Context) error
				want string
			}{{"start", start, c.start}, {"stop", f.Stop, c.stop}, {"go on", start, c.cont}} {
				if err := step.do(ctx); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				if err := f.Barrier(ctx); err != nil { // the last message of a step may have no answer
					t.Fatal(err)
				}
				if got, want := s.take(), words(step.want)+" GET_FEATURES"; got != want {
					t.Errorf("%s:\n got %s\nwant %s", step.name, got, want)
				}
			}
		})
	}
}

// TestSequenceOfReconnect checks the first words of a second connection.
func TestSequenceOfReconnect(t *testing.T) {
	for _, c := range []struct {
		kind vutest.Kind
		want string
	}{
		{vutest.QEMU10, `GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM GET_MAX_MEM_SLOTS SET_OWNER GET_FEATURES
			CALL0+ ERR0+ CALL1+ ERR1+ ENABLE0=1! ENABLE1=1! SET_FEATURES`},
		{vutest.CloudHypervisor, `SET_OWNER GET_FEATURES SET_PROTOCOL_FEATURES SET_FEATURES! SET_MEM_TABLE++++!`},
		{vutest.VirtioUser, `SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES CALL0+ CALL1+ SET_FEATURES`},
	} {
		s := &script{protocol: vhostuser.Offered}
		f := vutest.Connect(t, s.listen(t), vutest.Options{Kind: c.kind})
		ctx := timeout(t)
		if _, err := f.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if err := f.Barrier(ctx); err != nil {
			t.Fatal(err)
		}
		s.take()
		if _, err := f.Reconnect(ctx); err != nil {
			t.Fatal(err)
		}
		if got, want := s.take(), words(c.want); !strings.HasPrefix(got, want) {
			t.Errorf("%s:\n got %s\nwant %s ...", c.kind, got, want)
		}
	}
}
