package usernet

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vhostnet/nbl"
)

const benchChunk = 1 << 20 // bytes of one iteration

// stream sends iterations of benchChunk over each of the connections, all at once.
func stream(b *testing.B, senders []io.Writer, receivers []io.Reader) {
	b.SetBytes(benchChunk)
	each := b.N/len(senders) + 1
	var wg sync.WaitGroup
	before := cpuTime(b)
	b.ResetTimer()
	for i := range senders {
		wg.Go(func() {
			chunk := make([]byte, 256<<10)
			for range each * (benchChunk / len(chunk)) {
				if _, err := senders[i].Write(chunk); err != nil {
					b.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(receivers[i], int64(each)*benchChunk), make([]byte, 256<<10)); err != nil || n < int64(each)*benchChunk {
				b.Error(n, err)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	// What it costs is known also on a machine that has other things to do.
	bytes := float64(each * len(senders) * benchChunk)
	b.ReportMetric((cpuTime(b)-before).Seconds()*1e9/bytes, "cpu-s/GB")
	b.ReportMetric(bytes*8/1e9/b.Elapsed().Seconds(), "Gbps")
}

// cpuTime is what the process has used of the machine.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkNetwork is a guest in this process, behind the switch, and a program on
// the host: the way of a guest's bytes but for its rings.
func BenchmarkNetwork(b *testing.B) {
	for _, streams := range []int{1, 8} {
		for _, up := range []bool{true, false} {
			b.Run(fmt.Sprintf("streams=%d/up=%v", streams, up), func(b *testing.B) {
				l := newLab(b, Options{Host: true})
				g := newTestGuest(l, 1, nbl.UplinkFeatures)
				hosts := make(chan net.Conn, streams)
				done := make(chan struct{})
				at := server(b, "127.0.0.1:0", func(c net.Conn) {
					hosts <- c
					<-done
				})
				var from, to []net.Conn
				for range streams {
					c, err := g.dial(netip.AddrPortFrom(gateways[0], at.Port()))
					l.must(err)
					defer c.Close()
					from, to = append(from, c), append(to, <-hosts)
				}
				if !up {
					from, to = to, from
				}
				stream(b, writers(from), readers(to))
				s := g.stack
				if !up {
					s = l.n.stack
				}
				b.ReportMetric(float64(s.Stats().TCP.Retransmits.Value()), "retransmits")
				b.ReportMetric(float64(s.Stats().TCP.Timeouts.Value()), "timeouts")
				close(done)
			})
		}
	}
}

// wire joins two guests' stacks without a switch: each packet is copied into flat
// memory, crosses to a goroutine, and is copied out.
type wire struct {
	*guestLink
	to   *wire
	flat chan flat // what is on its way
	free chan flat // to be used again
}

// flat is the memory of a guest with a packet in it.
type flat struct {
	b []byte
	n int // bytes, virtio_net_hdr included
}

const wireDepth = 1024 // packets

func newWire(g *testGuest) *wire {
	return &wire{guestLink: (*guestLink)(g), flat: make(chan flat, wireDepth), free: make(chan flat, wireDepth)}
}

func (w *wire) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range list.AsSlice() {
		var f flat
		select {
		case f = <-w.to.free:
		default:
			f.b = make([]byte, sourceBytes)
		}
		s := sent{pkt: pkt.IncRef()}
		f.n = s.put(f.b)
		select {
		case w.to.flat <- f:
		default:
		}
	}
	return list.Len(), nil
}

func (w *wire) run() {
	for f := range w.flat {
		b := f.b[headerLen:f.n]
		if d := w.up.Load(); d != nil {
			payload, into := twoViews(len(b))
			copy(into[1], b[copy(into[0], b):])
			inject(*d, payload)
		}
		select {
		case w.free <- f:
		default:
		}
	}
}

// joined is two guests' stacks with a wire between them, and connections from one
// to the other.
type joined struct {
	guests   [2]*testGuest
	wires    [2]*wire
	running  sync.WaitGroup
	from, to []net.Conn
}

func join(b *testing.B, streams int) *joined {
	l, j := &lab{t: b}, &joined{}
	for i := range j.guests {
		j.guests[i] = bareGuest(b, i+1, nbl.UplinkFeatures)
		j.wires[i] = newWire(j.guests[i])
		j.guests[i].newStack(l, j.wires[i])
	}
	j.wires[0].to, j.wires[1].to = j.wires[1], j.wires[0]
	for _, w := range j.wires {
		j.running.Go(w.run)
	}
	at := j.guests[1].v4
	ln, err := gonet.ListenTCP(j.guests[1].stack, tcpip.FullAddress{NIC: nicID, Addr: stackAddress(at), Port: 9}, protocolOf(at))
	l.must(err)
	defer ln.Close()
	for range streams {
		c, err := j.guests[0].dial(netip.AddrPortFrom(at, 9))
		l.must(err)
		a, err := ln.Accept()
		l.must(err)
		j.from, j.to = append(j.from, c), append(j.to, a)
	}
	return j
}

func (j *joined) end() {
	for _, g := range j.guests {
		g.up.Store(nil)
		g.stack.Destroy()
	}
	for _, w := range j.wires {
		close(w.flat)
	}
	j.running.Wait()
}

// BenchmarkLinks is the same stack twice, joined in this process: what there is
// to reach.
func BenchmarkLinks(b *testing.B) {
	for _, streams := range []int{1, 8} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			j := join(b, streams)
			stream(b, writers(j.from), readers(j.to))
			j.end()
		})
	}
}

// BenchmarkLinksSocket is the same with a socket of the kernel's behind the second
// stack, and a copy between the two: what there is to reach with a program that is
// not in this process.
func BenchmarkLinksSocket(b *testing.B) {
	for _, streams := range []int{1, 8} {
		for _, up := range []bool{true, false} {
			b.Run(fmt.Sprintf("streams=%d/up=%v", streams, up), func(b *testing.B) {
				j := join(b, streams)
				var copying sync.WaitGroup
				var far []net.Conn
				for _, c := range j.to {
					near, end := socketPair(b)
					far = append(far, end)
					src, dst := c, near
					if !up {
						src, dst = near, c
					}
					copying.Go(func() {
						_, _ = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, relayBytes))
						near.Close()
					})
				}
				if up {
					stream(b, writers(j.from), readers(far))
				} else {
					stream(b, writers(far), readers(j.from))
				}
				for i := range far {
					far[i].Close()
					j.from[i].Close()
				}
				j.end()
				copying.Wait()
			})
		}
	}
}

// BenchmarkSocket is the kernel's socket alone, both ends.
func BenchmarkSocket(b *testing.B) {
	a, z := socketPair(b)
	stream(b, []io.Writer{a}, []io.Reader{z})
	a.Close()
	z.Close()
}

// socketPair is a connection on the loopback, both ends.
func socketPair(t testing.TB) (a, z net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if z, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, z
}

func writers(conns []net.Conn) []io.Writer {
	var w []io.Writer
	for _, c := range conns {
		w = append(w, c)
	}
	return w
}

func readers(conns []net.Conn) []io.Reader {
	var r []io.Reader
	for _, c := range conns {
		r = append(r, c)
	}
	return r
}
