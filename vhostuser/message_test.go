package vhostuser

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The literals below are little-endian: the tests run on amd64 and arm64.

func TestHeaderOnTheWire(t *testing.T) {
	h := Header{Request: SetVringKick, Flags: FlagVersion | FlagNeedReply, Size: 8}
	want := []byte{
		12, 0, 0, 0, // request
		9, 0, 0, 0, // version 1, NEED_REPLY
		8, 0, 0, 0, // size
	}
	got := h.Append(nil)
	if !bytes.Equal(got, want) {
		t.Fatalf("header is % x, want % x", got, want)
	}
	back, err := ParseHeader(got)
	if err != nil || back != h {
		t.Fatalf("parsed %+v, %v; want %+v", back, err, h)
	}
	if _, err := ParseHeader(got[:11]); !errors.Is(err, ErrShort) {
		t.Fatalf("11 bytes: error %v, want ErrShort", err)
	}
}

// V21: replies byte for byte; trap 7.38: their flags are exactly 5.
func TestV21_RepliesAreByteExact(t *testing.T) {
	tests := []struct {
		name    string
		request Request
		payload []byte
		want    string
	}{
		{"GET_FEATURES", GetFeatures, U64(0x1_4000_0000).Marshal(), "01000000" + "05000000" + "08000000" + "0000004001000000"},
		{"GET_VRING_BASE", GetVringBase, VringState{Index: 3, Num: 0x1234}.Marshal(), "0b000000" + "05000000" + "08000000" + "03000000" + "34120000"},
		{"acknowledgement", SetMemTable, U64(1).Marshal(), "05000000" + "05000000" + "08000000" + "0100000000000000"},
	}
	for _, test := range tests {
		got := hex.EncodeToString(Message(test.request, ReplyFlags, test.payload))
		if got != test.want {
			t.Errorf("%s is %s, want %s", test.name, got, test.want)
		}
	}
}

func TestPayloadsOnTheWire(t *testing.T) {
	addr := VringAddr{Index: 2, Flags: AddrFlagLog, Desc: 0x11, Used: 0x22, Avail: 0x33, Log: 0x44}
	if got, want := hex.EncodeToString(addr.Marshal()),
		"02000000"+"01000000"+"1100000000000000"+"2200000000000000"+"3300000000000000"+"4400000000000000"; got != want {
		t.Errorf("vring address is %s, want %s (used before avail)", got, want)
	}
	var addrBack VringAddr
	if err := addrBack.Unmarshal(addr.Marshal()); err != nil || addrBack != addr {
		t.Errorf("vring address came back as %+v, %v", addrBack, err)
	}

	region := MemRegion{GPA: 0x1000, Size: 0x2000, User: 0x3000, Offset: 0x4000}
	regionBytes := "0010000000000000" + "0020000000000000" + "0030000000000000" + "0040000000000000"
	table := MemTable{Regions: []MemRegion{region, region}}
	if got, want := hex.EncodeToString(table.Marshal()), "02000000"+"00000000"+regionBytes+regionBytes; got != want {
		t.Errorf("memory table is %s, want %s", got, want)
	}
	var tableBack MemTable
	if err := tableBack.Unmarshal(table.Marshal()); err != nil || !cmp.Equal(tableBack, table) {
		t.Errorf("memory table came back as %+v, %v", tableBack, err)
	}
	if got, want := hex.EncodeToString(SingleRegion{Region: region}.Marshal()), "0000000000000000"+regionBytes; got != want {
		t.Errorf("single region is %s, want %s", got, want)
	}

	for _, test := range []struct {
		fd   VringFD
		want string
	}{
		{VringFD{Index: 0xfe}, "fe00000000000000"},
		{VringFD{Index: 3, NoFD: true}, "0301000000000000"},
		{VringFD{Index: 1, Rest: 0x10000}, "0100010000000000"},
	} {
		if got := hex.EncodeToString(test.fd.Marshal()); got != test.want {
			t.Errorf("%+v is %s, want %s", test.fd, got, test.want)
		}
		var back VringFD
		if err := back.Unmarshal(test.fd.Marshal()); err != nil || back != test.fd {
			t.Errorf("%+v came back as %+v, %v", test.fd, back, err)
		}
	}
}

// V7: what cannot begin a request.
func TestV7_HeaderCheck(t *testing.T) {
	good := Header{Request: GetFeatures, Flags: FlagVersion, Size: 0}
	tests := []struct {
		name   string
		change func(*Header)
		part   string // of the error, "" for none
	}{
		{"good", func(*Header) {}, ""},
		{"need reply", func(h *Header) { h.Flags |= FlagNeedReply }, ""},
		{"unknown request", func(h *Header) { h.Request = 1<<32 - 1 }, ""},
		{"longest payload", func(h *Header) { h.Size = MaxPayload }, ""},
		{"version 0", func(h *Header) { h.Flags = 0 }, "version 0"},
		{"version 2", func(h *Header) { h.Flags = 2 }, "version 2"},
		{"version 3", func(h *Header) { h.Flags = 3 }, "version 3"},
		{"reply", func(h *Header) { h.Flags |= FlagReply }, "reply"},
		{"reserved flag", func(h *Header) { h.Flags |= 0x10 }, "reserved"},
		{"highest flag", func(h *Header) { h.Flags |= 1 << 31 }, "reserved"},
		{"payload too long", func(h *Header) { h.Size = MaxPayload + 1 }, "at most 4096"},
		{"payload of 2^32-1", func(h *Header) { h.Size = 1<<32 - 1 }, "at most 4096"},
	}
	for _, test := range tests {
		h := good
		test.change(&h)
		err := h.Check()
		if (err == nil) != (test.part == "") || err != nil && !strings.Contains(err.Error(), test.part) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.part)
		}
	}
}

// V27: the count of regions is believed only when the payload agrees.
func TestV27_MemTableCount(t *testing.T) {
	whole := MemTable{Regions: make([]MemRegion, 3)}.Marshal()
	for _, n := range []uint32{0, 2, 4, 9, 1 << 27, 1<<32 - 1} { // 2^27 * 32 wraps to 0 in 32 bits
		b := bytes.Clone(whole)
		order.PutUint32(b, n)
		var table MemTable
		if err := table.Unmarshal(b); err == nil {
			t.Errorf("a table of 3 regions that says %d was read", n)
		}
	}
	for n := range len(whole) {
		var table MemTable
		if err := table.Unmarshal(whole[:n]); err == nil {
			t.Errorf("%d bytes of a table of %d were read", n, len(whole))
		}
	}
}

func TestNames(t *testing.T) {
	if got := SetMemTable.String(); got != "SET_MEM_TABLE" {
		t.Errorf("request 5 is called %s", got)
	}
	if got := Request(99).String(); got != "request 99" {
		t.Errorf("request 99 is called %s", got)
	}
	if got, want := (ProtocolMQ | ProtocolReplyAck | 1<<14).String(), "mq,reply_ack,bit14"; got != want {
		t.Errorf("protocol features are %s, want %s", got, want)
	}
}

// FuzzMessage: whatever bytes come, the codec says no or gives back what it
// read.
func FuzzMessage(f *testing.F) {
	f.Add(Message(GetFeatures, FlagVersion, nil))
	f.Add(Message(SetVringAddr, FlagVersion|FlagNeedReply, VringAddr{Index: 1, Desc: 4096, Used: 8192, Avail: 12288}.Marshal()))
	f.Add(Message(SetVringKick, FlagVersion, VringFD{Index: 2, NoFD: true}.Marshal()))
	f.Add(Message(AddMemReg, FlagVersion, SingleRegion{Region: MemRegion{Size: 4096}}.Marshal()))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			if len(b) >= HeaderLen {
				t.Fatalf("%d bytes were refused as a header: %v", len(b), err)
			}
			return
		}
		if got := h.Append(nil); !bytes.Equal(got, b[:HeaderLen]) {
			t.Fatalf("header % x came back as % x", b[:HeaderLen], got)
		}
		if h.Check() == nil && h.Size > MaxPayload {
			t.Fatalf("a payload of %d bytes was accepted", h.Size)
		}
		_ = h.Request.String()
		payload := b[HeaderLen:]
		var (
			u  U64
			st VringState
			fd VringFD
			ad VringAddr
		)
		same := func(what string, err error, marshal func() []byte) {
			if err == nil && !bytes.Equal(marshal(), payload) {
				t.Fatalf("%s % x came back as % x", what, payload, marshal())
			}
		}
		same("number", u.Unmarshal(payload), func() []byte { return u.Marshal() })
		same("state", st.Unmarshal(payload), func() []byte { return st.Marshal() })
		same("descriptor", fd.Unmarshal(payload), func() []byte { return fd.Marshal() })
		same("address", ad.Unmarshal(payload), func() []byte { return ad.Marshal() })
		var one SingleRegion
		if one.Unmarshal(payload) == nil && !bytes.Equal(one.Marshal()[8:], payload[8:]) {
			t.Fatalf("region % x came back as % x", payload, one.Marshal())
		}
	})
}
