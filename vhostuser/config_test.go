package vhostuser

import (
	"bytes"
	"testing"
)

func TestConfig(t *testing.T) {
	b := newBench(t, newStub(), nil)
	for _, tt := range []struct {
		name   string
		offset uint32
		want   []byte
	}{
		{"whole", 0, stubConfig},
		{"nothing", 0, nil},
		{"a part", 6, []byte{1, 0}},
		{"over the end", 8, []byte{8, 0, 0xdc, 5, 0, 0, 0, 0}},
		{"at the end", 12, make([]byte, 4)},
		{"far beyond", 1<<32 - 1, make([]byte, 4)},
		{"all that a message holds", 0, append(bytes.Clone(stubConfig), make([]byte, MaxPayload-configHead-len(stubConfig))...)},
	} {
		request := Config{Offset: tt.offset, Flags: 1, Data: bytes.Repeat([]byte{0xa5}, len(tt.want))}
		want := Config{Offset: tt.offset, Flags: 1, Data: tt.want}.Marshal()
		if got := b.ask(GetConfig, request.Marshal()); !bytes.Equal(got, want) {
			t.Errorf("%s: % x, want % x", tt.name, got, want)
		}
	}
	b.refused(SetConfig, Config{Data: []byte{1}}.Marshal())
	b.refused(SetConfig, Config{Flags: 3, Data: []byte{1}}.Marshal())
	b.ok(SetConfig, Config{Flags: ConfigFlagMigration, Data: make([]byte, 12)}.Marshal())
	b.refused(SetConfig, Config{Flags: ConfigFlagMigration, Data: []byte{1}}.Marshal()[:12]) // fewer bytes than it says
	b.refused(SetConfig, append(Config{Flags: ConfigFlagMigration}.Marshal(), 0))            // more
	if got := b.ask(GetConfig, Config{Data: make([]byte, 6)}.Marshal())[configHead:]; !bytes.Equal(got, stubConfig[:6]) {
		t.Errorf("after SET_CONFIG the space begins with % x", got)
	}
	b.calls()
	b.say(GetConfig, Config{Data: make([]byte, 8)}.Marshal()[:configHead+4])
	b.closed() // its sender waits for a reply, and cannot be told no
}
