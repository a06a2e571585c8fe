package usernet

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"vhostnet/nbl"
)

// countTo is a server in the guest that answers how much came until the end.
func (g *testGuest) countTo(a netip.Addr, port uint16) {
	g.t.Helper()
	ln, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: nicID, Addr: stackAddress(a), Port: port}, protocolOf(a))
	if err != nil {
		g.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				n, err := io.Copy(io.Discard, c)
				fmt.Fprintf(c, "%d %v", n, err)
				c.Close()
			}()
		}
	}()
	g.t.Cleanup(func() {
		ln.Close()
		<-done
	})
}

// counted says the last byte on a connection and answers what comes then.
func counted(c net.Conn) (string, error) {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return "", errors.New("a connection that cannot be closed half")
	}
	if err := half.CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// A client that has said its last byte gets the guest's answer, also one that
// would use several ways (MPTCP).
func TestForwardHalfClose(t *testing.T) {
	noLeak(t)
	const size = 100000
	g1 := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, 101}), 80)
	l := newLab(t, Options{Forwards: []Forward{{Network: "tcp", Listen: "127.0.0.1:0", Guest: g1}}})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	g.countTo(g.v4, 80)
	for i := range 20 {
		var d net.Dialer
		d.SetMultipathTCP(i%2 == 0)
		c, err := d.DialContext(t.Context(), "tcp", l.n.Forwards()[0].Address)
		l.must(err)
		if is, err := c.(*net.TCPConn).MultipathTCP(); is || err != nil {
			t.Errorf("MPTCP is used: %v, %v", is, err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // a socket takes it
		_, err = c.Write(make([]byte, size))
		l.must(err)
		if i%4 < 2 { // the end comes by itself
			l.wait("the bytes to be carried", func() bool { return l.waiting(false) == 0 })
		}
		if got, err := counted(c); got != fmt.Sprint(size, " <nil>") || err != nil {
			t.Errorf("MPTCP %v: %q, %v", i%2 == 0, got, err)
		}
		c.Close()
	}
}

// A byte out of band, which a unix socket counts, is no part of the stream, and no
// reason to break it off.
func TestForwardOutOfBand(t *testing.T) {
	noLeak(t)
	g1 := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, 101}), 80)
	path := filepath.Join(t.TempDir(), "web")
	l := newLab(t, Options{Forwards: []Forward{{Network: "tcp", Listen: "unix:" + path, Guest: g1}}})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	g.countTo(g.v4, 80)
	for _, more := range []string{"", "more"} {
		c, err := net.Dial("unix", path)
		l.must(err)
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // a socket takes it
		_, err = c.Write(make([]byte, 1000))
		l.must(err)
		descriptor(t, c, func(fd int) { err = syscall.Sendto(fd, []byte("!"), syscall.MSG_OOB, nil) })
		if errors.Is(err, syscall.EOPNOTSUPP) {
			t.Skip("this kernel has no MSG_OOB on unix sockets (CONFIG_AF_UNIX_OOB)")
		}
		l.must(err)
		_, err = c.Write([]byte(more))
		l.must(err)
		if got, err := counted(c); got != fmt.Sprint(1000+len(more), " <nil>") || err != nil {
			t.Errorf("with %q behind: %q, %v", more, got, err)
		}
	}
}
