package vutest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"time"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser"
)

// RefusedError is an acknowledgement that says no.
type RefusedError struct {
	Request vhostuser.Request
	Code    uint64 // of the acknowledgement, not 0
}

// Error names the request and the code.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("vutest: %s was refused with code %d", e.Request, e.Code)
}

// answered are the requests that have a reply of their own, with or without
// NEED_REPLY.
var answered = []vhostuser.Request{
	vhostuser.GetFeatures, vhostuser.GetProtocolFeatures, vhostuser.GetQueueNum, vhostuser.GetVringBase,
	vhostuser.SetLogBase, vhostuser.GetConfig, vhostuser.GetMaxMemSlots, vhostuser.GetStatus, vhostuser.GetInflightFD,
	vhostuser.PostcopyAdvise, vhostuser.SetDeviceStateFD, vhostuser.CheckDeviceState,
}

// deadline is the end of a wait: Options.Timeout from now, or that of ctx.
func (f *FrontEnd) deadline(ctx context.Context) time.Time {
	end := time.Now().Add(f.o.Timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		return d
	}
	return end
}

// Request sends one well-formed message and waits for what the protocol
// promises: the reply of a request that has one, the acknowledgement when
// needReply is set, nothing otherwise. The payload of the reply is the answer;
// an acknowledgement that is not 0 is a *[RefusedError]. The descriptors stay
// the caller's.
func (f *FrontEnd) Request(ctx context.Context, r vhostuser.Request, payload []byte, fds []*sys.FD, needReply bool) ([]byte, error) {
	flags := vhostuser.FlagVersion
	if needReply {
		flags |= vhostuser.FlagNeedReply
	}
	if err := f.SendRaw(ctx, vhostuser.Message(r, flags, payload), fds); err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	own := slices.Contains(answered, r)
	if !own && !needReply {
		return nil, nil
	}
	h, reply, err := f.Receive(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	if h.Request != r || h.Flags != vhostuser.ReplyFlags {
		return nil, fmt.Errorf("vutest: %s was answered by %s with flags %#x; flags %#x are expected", r, h.Request, h.Flags, vhostuser.ReplyFlags)
	}
	if own {
		return reply, nil
	}
	var code vhostuser.U64
	if err := code.Unmarshal(reply); err != nil {
		return nil, fmt.Errorf("vutest: acknowledgement of %s: %w", r, err)
	}
	if code != 0 {
		return nil, &RefusedError{Request: r, Code: uint64(code)}
	}
	return reply, nil
}

// SendRaw writes bytes to the socket, whatever they are, and descriptors with
// the first of them. The descriptors stay the caller's.
func (f *FrontEnd) SendRaw(ctx context.Context, b []byte, fds []*sys.FD) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("vutest: send: %w", err)
	}
	if err := f.conn.SetWriteDeadline(f.deadline(ctx)); err != nil {
		return fmt.Errorf("vutest: send: %w", err)
	}
	if err := f.conn.Send(b, fds); err != nil {
		return fmt.Errorf("vutest: send: %w", err)
	}
	return nil
}

// Receive reads one message as virtio-user does: the header by one read, the
// payload by another, without a loop. A back-end that sends a message in
// pieces fails it, as does one that sends descriptors that were not asked for.
func (f *FrontEnd) Receive(ctx context.Context) (vhostuser.Header, []byte, error) {
	if err := ctx.Err(); err != nil {
		return vhostuser.Header{}, nil, fmt.Errorf("vutest: receive: %w", err)
	}
	if err := f.conn.SetReadDeadline(f.deadline(ctx)); err != nil {
		return vhostuser.Header{}, nil, fmt.Errorf("vutest: receive: %w", err)
	}
	head, err := f.readOnce(vhostuser.HeaderLen)
	if err != nil {
		return vhostuser.Header{}, nil, err
	}
	h, err := vhostuser.ParseHeader(head)
	if err != nil || h.Size == 0 {
		return h, nil, err
	}
	if h.Size > vhostuser.MaxPayload {
		return h, nil, fmt.Errorf("vutest: reply to %s with a payload of %d bytes; no reply is that long", h.Request, h.Size)
	}
	payload, err := f.readOnce(int(h.Size))
	return h, payload, err
}

func (f *FrontEnd) readOnce(n int) ([]byte, error) {
	b := make([]byte, n)
	got, fds, err := f.conn.Recv(b, f.takes-len(f.taken))
	f.taken = append(f.taken, fds...)
	if err != nil {
		return nil, fmt.Errorf("vutest: receive: %w", err)
	}
	if got != n {
		return nil, fmt.Errorf("vutest: a reply came in pieces: %d of %d bytes in one read, and virtio-user reads once", got, n)
	}
	return b, nil
}

// WaitClosed waits until the back-end has closed the connection. Replies that
// come before are thrown away.
func (f *FrontEnd) WaitClosed(ctx context.Context) error {
	if err := f.conn.SetReadDeadline(f.deadline(ctx)); err != nil {
		return fmt.Errorf("vutest: wait for the end of the connection: %w", err)
	}
	b := make([]byte, vhostuser.MaxPayload)
	for {
		switch _, _, err := f.conn.Recv(b, 0); {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed):
			return nil
		default:
			return fmt.Errorf("vutest: the back-end did not close the connection: %w", err)
		}
	}
}

// Barrier waits until the back-end has done every message sent so far
// (GET_FEATURES, as QEMU does it).
func (f *FrontEnd) Barrier(ctx context.Context) error {
	_, err := f.askU64(ctx, vhostuser.GetFeatures)
	return err
}

// tell sends a message that has no reply of its own; whether it is to be
// acknowledged is the kind's habit.
func (f *FrontEnd) tell(ctx context.Context, r vhostuser.Request, payload []byte, fds ...*sys.FD) error {
	_, err := f.Request(ctx, r, payload, fds, f.protocol.Has(vhostuser.ProtocolReplyAck) && f.kind.acked(r))
	return err
}

// askU64 sends a request without payload whose reply is a number.
func (f *FrontEnd) askU64(ctx context.Context, r vhostuser.Request) (uint64, error) {
	b, err := f.Request(ctx, r, nil, nil, false)
	if err != nil {
		return 0, err
	}
	var u vhostuser.U64
	if err := u.Unmarshal(b); err != nil {
		return 0, fmt.Errorf("vutest: reply to %s: %w", r, err)
	}
	return uint64(u), nil
}
