package sys

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Poller waits for descriptors to become readable, edge-triggered: a token is
// reported once per signal and not again until the next one, whether or not
// anybody reads the descriptor. So a peer cannot keep a sleeper awake by a
// counter that never empties.
//
// Add, Del and Close may be called from any goroutine, Wait from one at a time.
type Poller struct {
	fd     *FD
	events []unix.EpollEvent // Wait's scratch
}

// NewPoller makes a Poller that watches nothing.
func NewPoller() (*Poller, error) {
	n, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("sys: create an epoll instance: %w", err)
	}
	return &Poller{fd: OwnFD(n)}, nil
}

// Add watches fd and reports token for it. A descriptor that is readable
// already is reported by the next Wait. The caller keeps fd open until Del.
func (p *Poller) Add(fd int, token uint64) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
	if err := unix.EpollCtl(p.fd.Num(), unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("sys: watch descriptor %d: %w", fd, err)
	}
	return nil
}

// Del stops watching fd. A Wait in flight may still report its token.
func (p *Poller) Del(fd int) error {
	if err := unix.EpollCtl(p.fd.Num(), unix.EPOLL_CTL_DEL, fd, nil); err != nil {
		return fmt.Errorf("sys: stop watching descriptor %d: %w", fd, err)
	}
	return nil
}

// Wait sleeps until a watched descriptor is signalled or timeout milliseconds
// have passed (-1: no limit), writes the tokens into buf and says how many. It
// may also return 0 tokens early, when a signal of the operating system
// interrupts it. It allocates only when buf is longer than ever before.
func (p *Poller) Wait(buf []uint64, timeout int) (int, error) {
	if len(buf) == 0 {
		return 0, errors.New("sys: wait needs room for at least one token")
	}
	if len(p.events) < len(buf) {
		p.events = make([]unix.EpollEvent, len(buf))
	}
	n, err := unix.EpollWait(p.fd.Num(), p.events[:len(buf)], timeout)
	if errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("sys: wait for descriptors: %w", err)
	}
	for i, ev := range p.events[:n] {
		buf[i] = uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
	}
	return n, nil
}

// Close ends the Poller. It does not wake a Wait in flight: signal a watched
// Event and let Wait return first.
func (p *Poller) Close() error { return p.fd.Close() }
