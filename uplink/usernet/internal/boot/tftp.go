package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"
	"time"

	"vhostnet/metrics"
	"vhostnet/uplink/usernet/internal/limit"
)

// Counters count what a TFTP server was asked. They may be read at any time.
type Counters struct {
	Requests  metrics.Counter // transfers begun
	Done      metrics.Counter // of these, read to the end
	Aborted   metrics.Counter // of these, ended by the client, or begun again
	Timeouts  metrics.Counter // of these, given up because the client says nothing
	Refused   metrics.Counter // requests for what is not there or not to be had
	TooMany   metrics.Counter // requests of guests that have too many transfers, or ask too often
	Malformed metrics.Counter // packets that are not understood
	Resent    metrics.Counter // windows sent again
}

// Peer is where a packet came from, and where the answers go. Guest is a name
// for whoever may have a number of transfers; the rest is for the caller, who
// gets it back as it was.
type Peer struct {
	Guest string
	MAC   [6]byte
	Addr  netip.AddrPort // the client's
	Local netip.Addr     // the server's
}

// TFTPConfig says what a TFTP server gives.
type TFTPConfig struct {
	Directory *Directory

	// MaxBlock is the largest block, whatever a client asks for: what fits into
	// a packet of the link. 512 to 65464; 0 means 1428.
	MaxBlock int

	// PerGuest is how many transfers one guest may have; 0 means 8. Transfers
	// is how many all may have; 0 means 256. Each has a file open.
	PerGuest, Transfers int
}

const (
	defaultMaxBlock  = 1428
	defaultPerGuest  = 8
	defaultTransfers = 256
	defaultBlock     = 512 // RFC 1350
	maxWindow        = 32  // blocks that are sent before an acknowledgement

	requestsPerSecond = 50
	requestsAtOnce    = 200
	countedGuests     = 4096
)

// TFTP is a server of TFTP. Its methods may be called concurrently.
type TFTP struct {
	cfg   TFTPConfig
	slots *limit.Slots[string]
	rate  *limit.Rate[string]

	// Counters count. They are the TFTP's to add to.
	Counters Counters

	mu        sync.Mutex
	transfers map[Peer]*transfer // guarded by mu; each has a slot
	buffer    []byte             // guarded by mu: a packet
}

// NewTFTP makes a server. It starts nothing.
func NewTFTP(cfg TFTPConfig) (*TFTP, error) {
	for _, d := range []struct {
		field  *int
		number int
	}{{&cfg.MaxBlock, defaultMaxBlock}, {&cfg.PerGuest, defaultPerGuest}, {&cfg.Transfers, defaultTransfers}} {
		if *d.field == 0 {
			*d.field = d.number
		}
	}
	if cfg.Directory == nil {
		return nil, errors.New("boot: TFTP without a directory")
	}
	if cfg.MaxBlock < defaultBlock || cfg.MaxBlock > 65464 {
		return nil, fmt.Errorf("boot: TFTP in blocks of %d bytes; want 512 to 65464", cfg.MaxBlock)
	}
	slots, err := limit.NewSlots[string](cfg.PerGuest, cfg.Transfers)
	if err != nil {
		return nil, fmt.Errorf("boot: transfers of TFTP: %w", err)
	}
	rate, err := limit.NewRate[string](requestsPerSecond, requestsAtOnce, countedGuests)
	if err != nil {
		return nil, err
	}
	return &TFTP{
		cfg: cfg, slots: slots, rate: rate,
		transfers: map[Peer]*transfer{}, buffer: make([]byte, 4+cfg.MaxBlock),
	}, nil
}

// Kinds of packets (RFC 1350, 5; RFC 2347).
const (
	opRead  = 1
	opWrite = 2
	opData  = 3
	opAck   = 4
	opError = 5
	opOAck  = 6
)

// Codes of errors.
const (
	codeOther    = 0
	codeNotFound = 1
	codeAccess   = 2
	codeIllegal  = 4
)

// Answer answers a payload from peer by calling send with each payload to go
// back, which is send's only until it returns. payload is not kept.
func (t *TFTP) Answer(now time.Time, peer Peer, payload []byte, send func([]byte)) {
	if len(payload) < 4 {
		t.Counters.Malformed.Add(1)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch binary.BigEndian.Uint16(payload) {
	case opRead:
		t.read(now, peer, payload[2:], send)
	case opAck:
		if tr := t.transfers[peer]; tr != nil {
			t.acknowledged(now, tr, binary.BigEndian.Uint16(payload[2:]), send)
		}
	case opError:
		if tr := t.transfers[peer]; tr != nil {
			t.Counters.Aborted.Add(1)
			t.end(tr)
		}
	case opWrite:
		t.Counters.Refused.Add(1)
		send(failure(codeAccess, "nothing can be written here"))
	default:
		t.Counters.Malformed.Add(1)
		if t.transfers[peer] == nil { // an error is not answered by an error for ever
			send(failure(codeIllegal, "not understood"))
		}
	}
}

// read begins a transfer.
func (t *TFTP) read(now time.Time, peer Peer, request []byte, send func([]byte)) {
	if !t.rate.Allow(now, peer.Guest) {
		t.Counters.TooMany.Add(1)
		return
	}
	r, ok := parseRequest(request)
	if !ok {
		t.Counters.Malformed.Add(1)
		send(failure(codeIllegal, "not understood"))
		return
	}
	if !r.octet {
		t.Counters.Refused.Add(1)
		send(failure(codeOther, "only mode octet (binary) is served"))
		return
	}
	if old := t.transfers[peer]; old != nil { // it did not hear the answer
		t.Counters.Aborted.Add(1)
		t.end(old)
	}
	if !t.slots.Take(peer.Guest) {
		t.Counters.TooMany.Add(1)
		send(failure(codeOther, "too many transfers"))
		return
	}
	file, size, err := t.cfg.Directory.open(r.name)
	if err != nil {
		t.slots.Give(peer.Guest)
		t.Counters.Refused.Add(1)
		if errors.Is(err, fs.ErrNotExist) {
			send(failure(codeNotFound, "no such file"))
		} else {
			send(failure(codeAccess, "not a file to be had"))
		}
		return
	}
	t.Counters.Requests.Add(1)
	tr := newTransfer(peer, file, size, r, t.cfg.MaxBlock)
	t.transfers[peer] = tr
	t.transmit(now, tr, send)
}

// transmit sends what is to be sent of a transfer: what was agreed on, or the
// window after what was acknowledged.
func (t *TFTP) transmit(now time.Time, tr *transfer, send func([]byte)) {
	tr.sentAt, tr.deadline = now, now.Add(tr.timeout)
	if tr.agreed != nil {
		send(tr.agreed)
		return
	}
	for n := range int64(tr.window) {
		block := tr.acked + 1 + n
		if block > tr.blocks {
			break
		}
		m, err := tr.data(t.buffer, block)
		if err != nil {
			send(failure(codeOther, "the file cannot be read"))
			t.Counters.Aborted.Add(1)
			t.end(tr)
			return
		}
		tr.sent = max(tr.sent, block)
		send(m)
	}
}

// acknowledged takes note that the client has all blocks up to one.
func (t *TFTP) acknowledged(now time.Time, tr *transfer, number uint16, send func([]byte)) {
	if tr.agreed != nil {
		if number == 0 {
			tr.agreed, tr.retries = nil, 0
			t.transmit(now, tr, send)
		}
		return
	}
	ahead := int64(number - uint16(tr.acked)) // numbers wrap
	switch {
	case ahead > tr.sent-tr.acked: // long ago
		return
	case ahead == 0:
		// Said again. In lockstep that is a duplicate, and sending again would
		// double all that follows (RFC 1123, 4.2.3.1). Of a window, its first
		// block was lost; once is enough for all that were sent after it.
		if tr.window == 1 || now.Sub(tr.sentAt) < tr.timeout/10 {
			return
		}
		t.Counters.Resent.Add(1)
	default:
		tr.retries = 0
	}
	if tr.acked += ahead; tr.acked >= tr.blocks {
		t.Counters.Done.Add(1)
		t.end(tr)
		return
	}
	t.transmit(now, tr, send)
}

// Next is when Resend has something to do; without ok, never.
func (t *TFTP) Next() (at time.Time, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tr := range t.transfers {
		if !ok || tr.deadline.Before(at) {
			at, ok = tr.deadline, true
		}
	}
	return at, ok
}

// maxRetries is how often the same is sent again before a client is given up.
const maxRetries = 5

// Resend sends again what clients have not acknowledged in time. send is called
// as in Answer.
func (t *TFTP) Resend(now time.Time, send func(Peer, []byte)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tr := range t.transfers {
		if now.Before(tr.deadline) {
			continue
		}
		if tr.retries++; tr.retries > maxRetries {
			t.Counters.Timeouts.Add(1)
			t.end(tr)
			continue
		}
		t.Counters.Resent.Add(1)
		t.transmit(now, tr, func(m []byte) { send(tr.peer, m) })
	}
}

// end ends a transfer and closes its file. The caller holds mu.
func (t *TFTP) end(tr *transfer) {
	_ = tr.file.Close() // it was only read
	delete(t.transfers, tr.peer)
	t.slots.Give(tr.peer.Guest)
}

// Forget ends the transfers of a guest that has left; with an empty name, of
// all.
func (t *TFTP) Forget(guest string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for peer, tr := range t.transfers {
		if guest == "" || peer.Guest == guest {
			t.Counters.Aborted.Add(1)
			t.end(tr)
		}
	}
}

// failure is an error packet.
func failure(code byte, text string) []byte {
	return append(append([]byte{0, opError, 0, code}, text...), 0)
}
