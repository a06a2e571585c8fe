package sys

import (
	"errors"
	"fmt"
	"os"
	"regexp"

	"golang.org/x/sys/unix"
)

// TAP is one queue of a TAP device: an interface of the kernel whose other end
// is this program. A frame is one read or one write, behind a virtio_net_hdr of
// TAPHeaderLen bytes, so it may leave checksums and TCP segmentation to its
// receiver, both ways. Neither call waits. Read is for one goroutine at a time;
// Write may be called from several.
type TAP struct {
	fd   *FD
	num  int // of fd while it is open; fixed, so that the packet's way takes no lock
	name string
}

// TAPHeaderLen is the length of the virtio_net_hdr in front of each frame.
const TAPHeaderLen = 12

const (
	tunPath     = "/dev/net/tun"
	tapOffloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	tapFlags    = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
)

// MaxTAPQueues is what Linux gives one device.
const MaxTAPQueues = 256

var tapName = regexp.MustCompile(`^[^\s/:%]{1,15}$`)

// CheckTAPName says what is wrong with an interface's name.
func CheckTAPName(name string) error {
	if !tapName.MatchString(name) || name == "." || name == ".." {
		return fmt.Errorf("sys: interface name %q; 1 to 15 characters without spaces, '/', ':' and '%%' are possible", name)
	}
	return nil
}

// OpenTAP opens queues of the TAP device that is called name, and creates it, for
// as long as it is open, when there is none. The error says what is missing.
func OpenTAP(name string, queues int) ([]*TAP, error) {
	if err := CheckTAPName(name); err != nil {
		return nil, err
	}
	if queues < 1 || queues > MaxTAPQueues {
		return nil, fmt.Errorf("sys: TAP device %s with %d queues; 1 to %d are possible", name, queues, MaxTAPQueues)
	}
	var list []*TAP
	for range queues {
		t, err := openTAPQueue(name, queues > 1)
		if err != nil {
			CloseTAPs(list)
			return nil, err
		}
		list = append(list, t)
	}
	return list, nil
}

// openTAPQueue opens one more queue. A device has several queues, or one, for
// good: of one queue either kind is taken.
func openTAPQueue(name string, several bool) (*TAP, error) {
	n, err := unix.Open(tunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("sys: TAP devices are made with %s: %w", tunPath, &os.PathError{Op: "open", Path: tunPath, Err: err})
	}
	fd := OwnFD(n)
	if several {
		err = attachTAP(n, name, tapFlags|unix.IFF_MULTI_QUEUE)
	} else if err = attachTAP(n, name, tapFlags); errors.Is(err, unix.EINVAL) {
		err = attachTAP(n, name, tapFlags|unix.IFF_MULTI_QUEUE)
	}
	if err != nil {
		_ = fd.Close()
		return nil, tapError(name, err)
	}
	return setUpTAP(fd, name)
}

func attachTAP(fd int, name string, flags uint16) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
}

// tapError says what a user can do about it.
func tapError(name string, err error) error {
	advice := ""
	switch {
	case errors.Is(err, unix.EPERM):
		advice = fmt.Sprintf("; creating one takes CAP_NET_ADMIN, taking one its owner: \"ip tuntap add dev %s mode tap multi_queue vnet_hdr user USER\" makes it beforehand", name)
	case errors.Is(err, unix.EBUSY):
		advice = "; another program has it, or it is no TAP device"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.E2BIG):
		advice = "; there is an interface of the name that is no TAP device of as many queues"
	}
	return fmt.Errorf("sys: TAP device %s: %w%s", name, err, advice)
}

// TAPFrom makes a TAP of a descriptor that somebody else opened and attached. It
// takes ownership of fd, also when it fails.
func TAPFrom(fd *FD) (*TAP, error) {
	req, err := unix.NewIfreq("x")
	if err == nil {
		err = unix.IoctlIfreq(fd.Num(), unix.TUNGETIFF, req)
	}
	if err != nil {
		n := fd.Num()
		_ = fd.Close()
		return nil, fmt.Errorf("sys: descriptor %d is no queue of a TAP device: %w", n, err)
	}
	name, flags := req.Name(), req.Uint16()
	if flags&tapFlags != tapFlags {
		_ = fd.Close()
		return nil, fmt.Errorf("sys: interface %s has flags %#x; a TAP device (IFF_TAP) without packet information (IFF_NO_PI) and with vnet headers (IFF_VNET_HDR) is needed", name, flags)
	}
	if err := unix.SetNonblock(fd.Num(), true); err != nil {
		_ = fd.Close()
		return nil, fmt.Errorf("sys: TAP device %s: %w", name, err)
	}
	return setUpTAP(fd, name)
}

// setUpTAP agrees on headers and offloads.
func setUpTAP(fd *FD, name string) (*TAP, error) {
	n := fd.Num()
	err := unix.IoctlSetPointerInt(n, unix.TUNSETVNETHDRSZ, TAPHeaderLen)
	if err == nil {
		err = unix.IoctlSetInt(n, unix.TUNSETOFFLOAD, tapOffloads)
	}
	if err != nil {
		_ = fd.Close()
		return nil, fmt.Errorf("sys: TAP device %s does not take its headers and offloads: %w", name, err)
	}
	return &TAP{fd: fd, num: n, name: name}, nil
}

// Name is the interface's name when it was opened.
func (t *TAP) Name() string { return t.name }

// FD is the descriptor's number for a poller: readable when there is a frame.
func (t *TAP) FD() int { return t.num }

// Read reads a frame, with its header, into b. 0 is none now. An error is for
// good: the device is gone.
func (t *TAP) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(t.num, b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EIO), errors.Is(err, unix.EFAULT):
			return 0, nil // the link is down
		case !errors.Is(err, unix.EINTR):
			return 0, fmt.Errorf("sys: read from TAP device %s: %w", t.name, err)
		}
	}
}

// TAPWrite is what became of a frame.
type TAPWrite uint8

// What can become of a frame that is written.
const (
	TAPTaken   TAPWrite = iota
	TAPFull             // there is no room now
	TAPDown             // the interface is down
	TAPRefused          // the kernel does not take such a frame
	TAPGone             // the device was deleted, for good
)

// Write writes a frame, with its header.
func (t *TAP) Write(b []byte) TAPWrite {
	for {
		_, err := unix.Write(t.num, b)
		switch {
		case err == nil:
			return TAPTaken
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			return TAPFull
		case errors.Is(err, unix.EIO):
			return TAPDown
		case errors.Is(err, unix.EBADFD), errors.Is(err, unix.EBADF):
			return TAPGone
		case !errors.Is(err, unix.EINTR):
			return TAPRefused
		}
	}
}

// Close gives the queue up; nobody reads nor writes any more. A device that was
// created by OpenTAP goes with its last queue.
func (t *TAP) Close() error { return t.fd.Close() }

// CloseTAPs closes all of a list.
func CloseTAPs(list []*TAP) {
	for _, t := range list {
		_ = t.Close() // what was written is with the kernel
	}
}
