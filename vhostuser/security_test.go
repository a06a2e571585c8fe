package vhostuser

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostnet/internal/sys"
	"vhostnet/virtio"
)

// The numbers are those of the catalogue of ways in which other back-ends
// broke.

// lastKnown is the highest request id that has a meaning to anybody.
const lastKnown = 44

// noMore checks that nothing but the reply to a barrier comes.
func (b *bench) noMore() {
	b.t.Helper()
	b.number(GetFeatures)
}

// V1, V2, V5: every request with every number of descriptors.
func TestV1_EveryRequestWithDescriptors(t *testing.T) {
	warm := newBench(t, newStub(), nil)
	warm.number(GetFeatures)
	warm.close()
	before := measure(t)
	for _, n := range []int{0, 1, 2, 8, 32, 64, 65, 253} {
		b := newBench(t, newStub(), nil)
		for id := Request(0); id <= lastKnown; id++ {
			fds := make([]*sys.FD, n)
			for i := range fds {
				fds[i] = newFD(t)
			}
			if n > MaxFDs {
				b.say(id, U64(0).Marshal(), fds...)
				b.closed() // CTRUNC: nobody knows what was lost
				b.close()
				b = newBench(t, newStub(), nil)
				continue
			}
			err := b.send(id, FlagVersion|FlagNeedReply, U64(0).Marshal(), fds...)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.reply(id); err != nil { // a refused GET ends the session
				b.close()
				b = newBench(t, newStub(), nil)
			}
		}
		b.close()
	}
	atRest(t, before)
}

// V4: the header promises more than is taken, with descriptors.
func TestV4_OversizeWithDescriptors(t *testing.T) {
	before := measure(t)
	for _, size := range []uint32{MaxPayload + 1, 1 << 16, 1<<32 - 1} {
		b := newBench(t, newStub(), nil)
		var fds []*sys.FD
		for range 8 {
			fds = append(fds, newFD(t))
		}
		head := Header{Request: SetMemTable, Flags: FlagVersion | FlagNeedReply, Size: size}.Append(nil)
		if err := b.conn.Send(head, fds); err != nil {
			t.Fatal(err)
		}
		sys.CloseAll(fds)
		b.closed()
		b.close()
	}
	atRest(t, before)
}

// V5: a good descriptor with a bad index or region, many times.
func TestV5_GoodDescriptorBadRest(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	before := b.measure()
	for range 500 {
		b.refused(SetVringKick, fdPayload(200), newFD(t))
		b.refused(SetVringErr, VringFD{Index: 0, Rest: 1 << 16}.Marshal(), newFD(t))
		b.refused(AddMemReg, SingleRegion{Region: g.whole()}.Marshal(), g.fd(t)) // overlaps
		b.refused(SetMemTable, MemTable{Regions: []MemRegion{g.region(0, 4096), {GPA: 1 << 40, Size: 1 << 50}}}.Marshal(), g.fd(t), g.fd(t))
		b.refused(SetBackendReqFD, nil, newFD(t))
		b.ok(SetVringCall, fdPayload(0), newFD(t))
		b.ok(SetVringCall, noFD(0))
		b.ok(SetLogFD, nil, newFD(t))
	}
	b.noMore()
	atRest(t, before)
	b.regions(1)
}

// V6: parts of a message, then silence or the end.
func TestV6_PartsOfAMessage(t *testing.T) {
	whole := Message(SetVringNum, FlagVersion, state(0, ringSize))
	short := func(o *Options) { o.MessageTimeout = 20 * time.Millisecond }
	before := measure(t)
	for n := 1; n < len(whole); n++ {
		for _, end := range []string{"stall", "close"} {
			b := newBench(t, newStub(), short)
			if err := b.conn.Send(whole[:n], []*sys.FD{}); err != nil {
				t.Fatal(err)
			}
			if end == "stall" {
				b.closed()
			} else {
				_ = b.conn.Close()
			}
			b.wait()
			if got := b.server.Stats(); got.Messages != 0 || got.Closed != 1 {
				t.Fatalf("%d bytes, then %s: %+v", n, end, got)
			}
			b.close()
		}
	}
	atRest(t, before)
}

// V6: a sender that sends byte for byte is understood; the descriptor belongs
// to the first byte.
func TestV6_ByteByByte(t *testing.T) {
	b := newBench(t, newStub(), nil)
	fd := newFD(t)
	defer fd.Close()
	for i, c := range Message(SetVringCall, FlagVersion|FlagNeedReply, fdPayload(0)) {
		var fds []*sys.FD
		if i == 0 {
			fds = []*sys.FD{fd}
		}
		if err := b.conn.Send([]byte{c}, fds); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := b.reply(SetVringCall); err != nil || !bytes.Equal(got, make([]byte, 8)) {
		t.Fatalf("reply % x, %v", got, err)
	}
}

// V7, V92: unknown and unoffered requests are refused, and end the session
// when their sender does not ask for an answer.
func TestV7_V92_NotServed(t *testing.T) {
	var ids []Request
	for id := range Request(300) {
		if _, ok := requests[id]; !ok {
			ids = append(ids, id)
		}
	}
	ids = append(ids, 1<<31, 1<<32-1)
	b := newBench(t, newStub(), nil)
	for _, id := range ids {
		b.refused(id, U64(0).Marshal(), newFD(t))
	}
	b.noMore()
	b.calls()
	if got := b.server.Stats(); got.Refused != uint64(len(ids)) || got.Messages != uint64(len(ids))+1 {
		t.Errorf("%d requests were refused: %+v", len(ids), got)
	}
	b.close()
	for _, id := range ids {
		b := newBench(t, newStub(), nil)
		b.say(id, nil)
		b.closed()
		b.wait()
		if got := b.server.Stats(); got.Closed != 1 || got.Refused != 1 {
			t.Fatalf("%s: %+v", id, got)
		}
		b.close()
	}
}

// V92: what other kinds of devices and migrations have is not offered, and
// refused: postcopy, IOTLB, crypto, GPU, in-band notifications, shared objects
// and memory, big-endian rings.
func TestV92_NotOffered(t *testing.T) {
	b := newBench(t, newStub(), nil)
	for _, id := range []Request{IOTLBMsg, 23, 26, 27, PostcopyAdvise, PostcopyListen, PostcopyEnd, 33, 35, 41, 44} {
		for n := range 3 {
			var fds []*sys.FD
			for range n {
				fds = append(fds, newFD(t))
			}
			b.refused(id, make([]byte, 32), fds...)
		}
	}
	offered := Protocol(b.number(GetProtocolFeatures))
	for _, bit := range []int{6, 7, 8, 10, 11, 14, 17, 18, 20, 21, 22} {
		if offered.Has(1 << bit) {
			t.Errorf("protocol feature %d is offered", bit)
		}
		b.refused(SetProtocolFeatures, U64(1<<bit).Marshal())
	}
	features := virtio.Features(b.number(GetFeatures))
	for _, f := range []virtio.Features{virtio.AccessPlatform, virtio.NotificationData, virtio.RingReset, 1 << 41, 1 << 42, 1 << 57, 1 << 60} {
		if features.Has(f) {
			t.Errorf("feature %s is offered", f)
		}
		b.refused(SetFeatures, U64(accepted|f).Marshal())
	}
	b.calls()
}

// V7: a header that cannot begin a request ends the session.
func TestV7_BadFlags(t *testing.T) {
	for _, flags := range []uint32{0, 2, 3, FlagVersion | FlagReply, FlagVersion | 0x10, FlagVersion | 1<<31} {
		b := newBench(t, newStub(), nil)
		if err := b.send(SetVringEnable, flags|FlagNeedReply, state(0, 1)); err != nil {
			t.Fatal(err)
		}
		b.closed()
		b.close()
		b.calls("disconnected")
	}
}

// V8, V14, P11: every request with every length and three contents, each as
// the first message of its session, ends in one reply or in the end of the
// session.
func TestV8_EveryLength(t *testing.T) {
	sizes := []int{0, 1, 4, 7, 8, 9, 12, 16, 24, 31, 32, 36, 39, 40, 41, 72, 1032, 4095, 4096}
	if testing.Short() {
		sizes = []int{0, 7, 8, 40, 4096}
	}
	before := measure(t)
	random := rand.New(rand.NewPCG(8, 8))
	for id := Request(0); id <= lastKnown; id++ {
		for _, size := range sizes {
			for fill := range 3 {
				payload := make([]byte, size)
				for i := range payload {
					switch fill {
					case 1:
						payload[i] = 0xff
					case 2:
						payload[i] = byte(random.Uint32())
					}
				}
				b := newBench(t, newStub(), nil)
				if err := b.send(id, FlagVersion|FlagNeedReply, payload); err != nil {
					t.Fatal(err)
				}
				got, err := b.reply(id)
				if err != nil && !ended(err) {
					t.Fatalf("%s with %d bytes: %v", id, size, err)
				}
				want := 8 // almost every reply is a number or a state
				if id == GetConfig {
					want = size // as much as was asked for
				}
				if err == nil && len(got) != want {
					t.Fatalf("%s with %d bytes: reply of %d bytes", id, size, len(got))
				}
				if err == nil {
					b.noMore()
				}
				b.close()
			}
		}
	}
	atRest(t, before)
}

func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// V9, V17: indices that are ours only when cut short.
func TestV9_V17_Indices(t *testing.T) {
	for _, index := range []uint32{4, 0x100, 0x10000, 0x10001, 1<<32 - 1} {
		b := newBench(t, newStub(), nil)
		st := VringState{Index: index, Num: 1}.Marshal()
		for _, r := range []Request{SetVringNum, SetVringBase, SetVringEnable} {
			b.refused(r, st)
		}
		b.refused(SetVringAddr, VringAddr{Index: index}.Marshal())
		// Bit 8 means that there is no descriptor; from bit 9 on all is reserved.
		for _, r := range []Request{SetVringKick, SetVringCall, SetVringErr} {
			if index != 0x100 {
				b.refused(r, U64(index).Marshal(), newFD(t))
				continue
			}
			b.refused(r, U64(index).Marshal(), newFD(t))
			b.ok(r, U64(index).Marshal())
		}
		b.calls()
		b.say(GetVringBase, st)
		b.closed()
		b.close()
	}
}

// V15: sizes.
func TestV15_RingSizes(t *testing.T) {
	b := newBench(t, newStub(), nil)
	for _, n := range []uint32{0, 3, 255, 32769, 65535, 65536, 1<<16 + 256, 1 << 31, 1<<32 - 1} {
		b.refused(SetVringNum, state(0, n))
	}
	for _, n := range []uint32{1, 2, 256, 32768} {
		b.ok(SetVringNum, state(0, n))
	}
}

// V16: NEED_REPLY on everything, REPLY_ACK accepted unseen or not at all, gives
// one reply of the right size each.
func TestV16_OneReplyEach(t *testing.T) {
	for _, ack := range []bool{false, true} {
		b := newBench(t, newStub(), nil)
		g := newGuest(t)
		if ack {
			b.ok(SetProtocolFeatures, U64(ProtocolReplyAck).Marshal())
		}
		one := func(r Request, payload []byte, fds ...*sys.FD) {
			b.want(r, payload, fds...)
			b.noMore()
		}
		for _, r := range []Request{GetFeatures, GetProtocolFeatures, GetQueueNum, GetMaxMemSlots, GetStatus, SetOwner, ResetOwner} {
			one(r, nil)
		}
		one(SetFeatures, U64(accepted).Marshal())
		one(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(t))
		one(SetVringNum, state(0, ringSize))
		one(SetVringBase, state(0, 0))
		one(SetVringAddr, addr(0).Marshal())
		one(SetVringKick, fdPayload(0), newFD(t))
		one(SetVringCall, fdPayload(0), newFD(t))
		one(SetVringErr, fdPayload(0), newFD(t))
		one(SetVringEnable, state(0, 1))
		one(GetVringBase, state(0, 0))
		one(SendRARP, make([]byte, 8))
		one(NetSetMTU, U64(1500).Marshal())
		one(SetStatus, U64(1).Marshal())
		one(77, nil)
		b.close()
	}
}

// V19: a front-end that does not read its replies is left.
func TestV19_RepliesNotRead(t *testing.T) {
	before := measure(t)
	b := newBench(t, newStub(), func(o *Options) { o.SendTimeout = 20 * time.Millisecond })
	g := newGuest(t)
	b.handshake(g)
	for { // until the socket is full both ways, or closed
		if err := b.send(GetFeatures, FlagVersion, nil); err != nil {
			break
		}
	}
	b.wait()
	if got := b.server.Stats().Closed; got != 1 {
		t.Errorf("%d sessions closed, want 1", got)
	}
	b.calls("disconnected")
	b.close()
	g.close()
	atRest(t, before)
}

// V22: no descriptors left, or only a few.
func TestV22_FewDescriptorsLeft(t *testing.T) {
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	before := measure(t)
	for spare := range 10 {
		b := newBench(t, newStub(), nil)
		g := newGuest(t)
		b.number(GetFeatures)
		var fds []*sys.FD
		for range 8 {
			fds = append(fds, newFD(t))
		}
		highest := fds[7].Num() // numbers are given out from the lowest
		limit := old
		limit.Cur = uint64(highest + 1 + spare)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		err := b.send(SetVringCall, FlagVersion|FlagNeedReply, noFD(0), fds...)
		_, rerr := b.reply(SetVringCall)
		if e := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); e != nil {
			t.Fatal(e)
		}
		if err != nil || rerr != nil && !ended(rerr) {
			t.Fatalf("%d spare descriptors: %v, %v", spare, err, rerr)
		}
		b.close()
		g.close()
	}
	atRest(t, before)
}

// V80: what a front-end does wrong is not logged without end.
func TestV80_LogIsBounded(t *testing.T) {
	b := newBench(t, newStub(), nil)
	from := time.Now()
	for range 3000 {
		b.refused(99, nil)
	}
	seconds := int(time.Since(from)/time.Second) + 2 // begun ones count
	if got := strings.Count(b.log.String(), "\n"); got > linesPerSecond*seconds {
		t.Errorf("%d lines in at most %d seconds", got, seconds)
	}
}

// The state of one session does not reach the next.
func TestFeaturesEndWithTheSession(t *testing.T) {
	d := newStub()
	for range 3 {
		b := newBench(t, d, nil)
		g := newGuest(t)
		b.ok(SetVringNum, state(0, ringSize))
		b.ok(SetVringAddr, addr(0).Marshal())
		b.ok(SetVringKick, fdPayload(0), newFD(t))
		b.ok(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(t))
		b.calls("memory 1") // nobody said which features
		b.ok(SetFeatures, U64(virtio.Version1).Marshal())
		b.calls("negotiated version_1", "enable 0 true", "enable 1 true", "enable 2 true", "enable 3 true", "start 0")
		b.close()
		b.calls("stop 0", "disconnected")
	}
}
