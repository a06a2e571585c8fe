package control

import (
	"context"
	"fmt"
	"net"

	"github.com/mdlayher/vsock"
)

// GuestPort is where hosts listen for their guests, unless they say otherwise:
// of AF_VSOCK, and behind PATH_ for hybrid vsock.
const GuestPort = 8470

// anyCID is VMADDR_CID_ANY: callers of all CIDs.
const anyCID = 1<<32 - 1

// ListenVsock listens for guests at a port of AF_VSOCK. A host without AF_VSOCK
// is an error.
func ListenVsock(port uint32) (net.Listener, error) {
	l, err := vsock.ListenContextID(anyCID, port, nil)
	if err != nil {
		return nil, fmt.Errorf("control: listen for guests at port %d of AF_VSOCK: %w", port, err)
	}
	return l, nil
}

// NewGuestClient makes a Client of the guest channel, which is at the port of a
// CID of AF_VSOCK: 2 is the host of the VM that the program runs in.
func NewGuestClient(cid, port uint32) *Client {
	where := fmt.Sprintf("port %d of CID %d", port, cid)
	c := NewClientOver(where, func(ctx context.Context) (net.Conn, error) { return vsock.DialContext(ctx, cid, port, nil) })
	c.hint = "does vhostnet run there with guest-cid= on the port of this VM, and has the kernel here vsock?"
	return c
}

// vsockCaller is the CID of who is at the other end, which the kernel knows.
func vsockCaller(c net.Conn) (uint32, error) {
	if a, ok := c.RemoteAddr().(*vsock.Addr); ok {
		return a.ContextID, nil
	}
	return 0, errNoCID
}
