package boot

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"
	"strings"
	"time"
)

const defaultTimeout = time.Second

// transfer is one file on its way to one client.
type transfer struct {
	peer    Peer
	file    *os.File
	size    int64 // when it was opened
	block   int   // bytes in each but the last, which has fewer
	blocks  int64 // how many there are
	window  int
	timeout time.Duration

	agreed   []byte // what the client's options came to; nil: it has said that it knows, or had none
	acked    int64  // blocks that the client has
	sent     int64  // blocks that were sent at least once
	retries  int    // times that the same was sent again
	sentAt   time.Time
	deadline time.Time
}

// request is what a client asks for.
type request struct {
	name    string
	octet   bool
	options []option
}

type option struct{ name, value string }

// maxOptions is more than there are.
const maxOptions = 16

// parseRequest reads a request without its kind: strings that end with 0.
func parseRequest(b []byte) (r request, ok bool) {
	var words []string
	for len(b) > 0 {
		word, rest, ended := bytes.Cut(b, []byte{0})
		if !ended || len(words) >= 2+2*maxOptions {
			return r, false
		}
		words, b = append(words, string(word)), rest
	}
	if len(words) < 2 || len(words)%2 != 0 || words[0] == "" {
		return r, false
	}
	r.name, r.octet = words[0], strings.EqualFold(words[1], "octet")
	for i := 2; i < len(words); i += 2 {
		r.options = append(r.options, option{strings.ToLower(words[i]), words[i+1]})
	}
	return r, true
}

// newTransfer agrees with the client's options as far as it can. One that is
// not known, or has no sense, is left out of the answer, which says that it is
// not in force (RFC 2347).
func newTransfer(peer Peer, file *os.File, size int64, r request, maxBlock int) *transfer {
	tr := &transfer{peer: peer, file: file, size: size, block: defaultBlock, window: 1, timeout: defaultTimeout}
	var agreed []byte
	agree := func(name string, value int64) {
		agreed = append(append(agreed, name...), 0)
		agreed = append(strconv.AppendInt(agreed, value, 10), 0)
	}
	for _, o := range r.options {
		n, err := strconv.ParseInt(o.value, 10, 32)
		switch {
		case err != nil:
		case o.name == "blksize" && n >= 8 && n <= 65464: // RFC 2348
			tr.block = min(int(n), maxBlock)
			agree(o.name, int64(tr.block))
		case o.name == "tsize" && n == 0: // RFC 2349
			agree(o.name, size)
		case o.name == "timeout" && n >= 1 && n <= 255:
			tr.timeout = time.Duration(n) * time.Second
			agree(o.name, n)
		case o.name == "windowsize" && n >= 1 && n <= 65535: // RFC 7440
			tr.window = min(int(n), maxWindow)
			agree(o.name, int64(tr.window))
		}
	}
	if agreed != nil {
		tr.agreed = append([]byte{0, opOAck}, agreed...)
	}
	tr.blocks = size/int64(tr.block) + 1
	return tr
}

// data is the packet of a block, counted from 1, in b. What has been added to
// the file since it was opened is not sent; what was taken away is an error.
func (tr *transfer) data(b []byte, block int64) ([]byte, error) {
	at := (block - 1) * int64(tr.block)
	n := min(int64(tr.block), tr.size-at)
	b = b[:4+n]
	binary.BigEndian.PutUint16(b, opData)
	binary.BigEndian.PutUint16(b[2:], uint16(block))
	if n == 0 { // an empty last block: the size is a multiple
		return b, nil
	}
	_, err := tr.file.ReadAt(b[4:], at)
	return b, err
}
