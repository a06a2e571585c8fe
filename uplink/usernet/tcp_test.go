package usernet

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"vhostnet/nbl"
	"vhostnet/virtio"
)

// dial connects from the guest.
func (g *testGuest) dial(to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Second, errTimeout)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, tcpip.FullAddress{NIC: nicID, Addr: stackAddress(to.Addr()), Port: to.Port()}, protocolOf(to.Addr()))
}

// server accepts connections on the host's loopback until the test ends, and
// gives each to f on a goroutine of its own.
func server(t testing.TB, address string, f func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { c.Close() })()
				defer c.Close()
				f(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		stop()
		wg.Wait()
	})
	return netip.MustParseAddrPort(ln.Addr().String())
}

// transfer is what both sides of the test's protocol do: say how much comes, send
// it, and its hash.
func transfer(w io.Writer, seed uint64, n int) error {
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], uint64(n))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	h := sha256.New()
	src := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{byte(seed)}), int64(n)), h)
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, src, make([]byte, 128<<10)); err != nil {
		return err
	}
	_, err := w.Write(h.Sum(nil))
	return err
}

var errHash = errors.New("the bytes that came are not those that were sent")

// receive is the other side of transfer.
func receive(r io.Reader) (int, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	n := int64(binary.BigEndian.Uint64(head[:]))
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, io.LimitReader(r, n), make([]byte, 128<<10)); err != nil {
		return 0, err
	}
	var sum [sha256.Size]byte
	if _, err := io.ReadFull(r, sum[:]); err != nil {
		return 0, err
	}
	if [sha256.Size]byte(h.Sum(nil)) != sum {
		return 0, errHash
	}
	return int(n), nil
}

// gateways are the gateway's addresses that guests name.
var gateways = []netip.Addr{DefaultIPv4.Addr(), DefaultIPv6.Addr()}

func loopbackOf(a netip.Addr) string {
	if a.Is4() {
		return "127.0.0.1:0"
	}
	return "[::1]:0"
}

// What a guest sends to the host and the other way arrives whole, over both
// protocols, with offloads and without, both ways at once.
func TestTCPBothWays(t *testing.T) {
	noLeak(t)
	const size = 24 << 20 / raceSlow
	l := newLab(t, Options{Host: true})
	for i, f := range []virtio.Features{nbl.UplinkFeatures, virtio.Version1} {
		g := newTestGuest(l, 1+i, f)
		for _, a := range gateways {
			errs := make(chan error, 3)
			at := server(t, loopbackOf(a), func(c net.Conn) {
				done := make(chan error, 1)
				go func() { done <- transfer(c, 1, size) }()
				_, err := receive(c)
				errs <- errors.Join(err, <-done)
			})
			c, err := g.dial(netip.AddrPortFrom(a, at.Port()))
			if err != nil {
				t.Fatalf("%v: %v; %+v", a, err, l.n.Snapshot())
			}
			go func() { errs <- transfer(c, 2, size) }()
			go func() {
				_, err := receive(c)
				errs <- err
			}()
			for range 3 {
				select {
				case err := <-errs:
					if err != nil {
						t.Errorf("guest with %v to %v: %v", f, a, err)
					}
				case <-time.After(60 * time.Second):
					t.Fatalf("guest with %v to %v: nothing comes any more; %+v", f, a, l.n.Snapshot())
				}
			}
			c.Close()
		}
	}
}
