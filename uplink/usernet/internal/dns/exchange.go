package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// maxMessage is the longest message there is (RFC 1035, 4.2.2).
const maxMessage = 65535

// exchangeUDP asks a resolver q from a socket and with an identifier of its
// own, and answers what comes back, under q's identifier. What does not answer
// q is not looked at.
func exchangeUDP(ctx context.Context, at netip.AddrPort, q query) ([]byte, error) {
	conn, err := dial(ctx, "udp", at)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	id, m := identified(q.raw)
	if _, err := conn.Write(m); err != nil {
		return nil, err
	}
	buffer := make([]byte, maxMessage)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, err
		}
		if q.answers(buffer[:n], id) {
			return restored(buffer[:n], q), nil
		}
	}
}

// exchangeTCP is the same over a connection.
func exchangeTCP(ctx context.Context, at netip.AddrPort, q query) ([]byte, error) {
	conn, err := dial(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	id, m := identified(q.raw)
	if err := writeMessage(conn, m); err != nil {
		return nil, err
	}
	answer, err := readMessage(conn)
	if err != nil {
		return nil, err
	}
	if !q.answers(answer, id) {
		return nil, fmt.Errorf("dns: %v answers by TCP what was not asked", at)
	}
	return restored(answer, q), nil
}

// dial connects; all on the connection ends with ctx.
func dial(ctx context.Context, network string, at netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, at.String())
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// identified is raw with an identifier that others cannot guess.
func identified(raw []byte) (id uint16, m []byte) {
	id = uint16(rand.Uint32()) // of a generator that is seeded by the system, ChaCha8
	m = append([]byte(nil), raw...)
	binary.BigEndian.PutUint16(m, id)
	return id, m
}

// restored is an answer as the guest asked: with its identifier and spelling.
func restored(answer []byte, q query) []byte {
	copy(answer[:2], q.raw[:2])
	copy(answer[headerSize:q.end], q.raw[headerSize:q.end])
	return answer
}

// writeMessage writes a message with its length before it, at once.
func writeMessage(w io.Writer, m []byte) error {
	if len(m) > maxMessage {
		return fmt.Errorf("dns: a message of %d bytes", len(m))
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m)), uint16(len(m)))
	_, err := w.Write(append(b, m...))
	return err
}

// readMessage reads a message that has a header.
func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n < headerSize {
		return nil, errMalformed
	}
	m := make([]byte, n)
	_, err := io.ReadFull(r, m)
	return m, err
}

// better reports whether an answer is one to be content with: another resolver
// may know more than one that failed or refuses.
func better(m []byte) bool {
	code := dnsmessage.RCode(flags(m) & maskCode)
	return code != dnsmessage.RCodeServerFailure && code != dnsmessage.RCodeRefused && code != dnsmessage.RCodeNotImplemented
}
