package vhostuser

import (
	"fmt"

	"github.com/hashicorp/go-hclog"

	"vhostnet/virtio"
)

// request is what is known of one request before it is looked into.
type request struct {
	needs   Protocol // offered protocol features without which it is refused
	fds     int      // the most descriptors that may come with it
	replies bool     // it has a reply of its own, and NEED_REPLY means nothing
	// do does the request and returns its own reply, nil for a request without
	// one. On error nothing has changed.
	do func(s *session, m *message) (reply []byte, err error)
}

// requests are those that are served. Any other one is refused and its
// descriptors are closed (vhost-user, "Front-end message types").
var requests = map[Request]request{
	GetFeatures:         {do: (*session).getFeatures, replies: true},
	SetFeatures:         {do: (*session).setFeatures},
	SetOwner:            {do: (*session).nothing},
	ResetOwner:          {do: (*session).nothing},
	SetMemTable:         {do: (*session).setMemTable, fds: MaxFDs},
	SetLogBase:          {do: (*session).setLogBase, needs: ProtocolLogShmFD, fds: 1, replies: true},
	SetLogFD:            {do: (*session).setLogFD, fds: 1},
	SetVringNum:         {do: (*session).setVringNum},
	SetVringAddr:        {do: (*session).setVringAddr},
	SetVringBase:        {do: (*session).setVringBase},
	GetVringBase:        {do: (*session).getVringBase, replies: true},
	SetVringKick:        {do: (*session).setVringKick, fds: 1},
	SetVringCall:        {do: (*session).setVringCall, fds: 1},
	SetVringErr:         {do: (*session).setVringErr, fds: 1},
	GetProtocolFeatures: {do: (*session).getProtocolFeatures, replies: true},
	SetProtocolFeatures: {do: (*session).setProtocolFeatures},
	GetQueueNum:         {do: (*session).getQueueNum, needs: ProtocolMQ, replies: true},
	SetVringEnable:      {do: (*session).setVringEnable},
	SendRARP:            {do: (*session).sendRARP, needs: ProtocolRARP},
	NetSetMTU:           {do: (*session).netSetMTU, needs: ProtocolMTU},
	SetBackendReqFD:     {do: (*session).setBackendReqFD, needs: ProtocolBackendReq, fds: 1},
	GetConfig:           {do: (*session).getConfig, needs: ProtocolConfig, replies: true},
	SetConfig:           {do: (*session).setConfig, needs: ProtocolConfig},
	ResetDevice:         {do: (*session).resetDevice, needs: ProtocolResetDevice},
	GetMaxMemSlots:      {do: (*session).getMaxMemSlots, needs: ProtocolMemSlots, replies: true},
	AddMemReg:           {do: (*session).addMemReg, needs: ProtocolMemSlots, fds: 1},
	RemMemReg:           {do: (*session).remMemReg, needs: ProtocolMemSlots, fds: 1},
	SetStatus:           {do: (*session).setStatus, needs: ProtocolStatus},
	GetStatus:           {do: (*session).getStatus, needs: ProtocolStatus, replies: true},
	GetInflightFD:       {do: (*session).getInflightFD, needs: ProtocolInflight, replies: true},
	SetInflightFD:       {do: (*session).setInflightFD, needs: ProtocolInflight, fds: 1},
	SetDeviceStateFD:    {do: (*session).setDeviceStateFD, needs: ProtocolDeviceState, fds: 1, replies: true},
	CheckDeviceState:    {do: (*session).checkDeviceState, needs: ProtocolDeviceState, replies: true},
}

// dispatch finds the handler of m, checks what can be checked without looking
// into it, and runs it.
func dispatch(s *session, m *message) ([]byte, error) {
	r, ok := requests[m.Request]
	switch {
	case !ok:
		return nil, fmt.Errorf("vhostuser: %s is not served", m.Request)
	case !s.srv.offered.Has(r.needs):
		return nil, fmt.Errorf("vhostuser: %s needs protocol feature %s, which is not offered", m.Request, r.needs)
	case len(m.fds) > r.fds:
		return nil, fmt.Errorf("vhostuser: %s came with %d descriptors, it takes at most %d", m.Request, len(m.fds), r.fds)
	}
	return r.do(s, m)
}

// number reads the payload of a request that is one number.
func number(m *message) (uint64, error) {
	var u U64
	err := u.Unmarshal(m.payload)
	return uint64(u), err
}

// empty checks the payload of a request that has none.
func empty(m *message) error { return exactly(m.payload, 0, m.Request.String()) }

// nothing serves requests that change nothing. SET_OWNER marks the start of a
// session and may come again (libkrun sends it at each start). RESET_OWNER is
// deprecated: old front-ends send it at each stop, and a back-end that dropped
// its state there broke reboots; "it is recommended to ignore it".
func (s *session) nothing(m *message) ([]byte, error) { return nil, empty(m) }

// getFeatures: legal at any time, also as a barrier while rings run.
func (s *session) getFeatures(m *message) ([]byte, error) {
	return U64(s.offered).Marshal(), empty(m)
}

// setFeatures: only offered bits. The same set again changes nothing (QEMU
// sends it once per queue pair, while the first pair runs already). Another
// set needs rings that are not in use: an enabled ring that runs refuses it.
// Bit 26 alone may change at any time.
// A set without bit 30 comes from a front-end that does not know of enabling,
// and enables every ring; with bit 30 the rings stay as they are.
func (s *session) setFeatures(m *message) ([]byte, error) {
	u, err := number(m)
	if err != nil {
		return nil, err
	}
	f := virtio.Features(u)
	if extra := f &^ s.offered; extra != 0 {
		return nil, fmt.Errorf("vhostuser: features %s are not offered", extra)
	}
	if driver := f &^ transport; !s.negotiated || driver != s.features {
		if err := s.renegotiate(driver); err != nil {
			return nil, err
		}
	}
	s.setLogAll(f.Has(virtio.LogAll))
	if !f.Has(virtio.ProtocolFeatures) {
		for i := range s.rings {
			s.enable(&s.rings[i], true)
		}
	}
	return nil, nil
}

func (s *session) renegotiate(f virtio.Features) error {
	for i := range s.rings {
		if err := s.rings[i].idle(); err != nil {
			return fmt.Errorf("vhostuser: features change in %s: %w", f^s.features, err)
		}
	}
	for i := range s.rings {
		// A ring that ran and was left disabled belongs to the driver before,
		// whose memory may serve another purpose by now.
		if r := &s.rings[i]; r.state == running || r.saved != nil && !r.enabled {
			s.stop(r)
		} else {
			r.saved = nil
		}
	}
	s.features, s.negotiated = f, true
	s.dev.Negotiated(f)
	s.log(hclog.Info, "features negotiated", "features", f)
	return nil
}

// setLogFD: an eventfd to signal writes to the dirty log. Nobody sends it; it
// is closed.
func (s *session) setLogFD(m *message) ([]byte, error) { return nil, empty(m) }

// getProtocolFeatures: legal before SET_FEATURES.
func (s *session) getProtocolFeatures(m *message) ([]byte, error) {
	return U64(s.srv.offered).Marshal(), empty(m)
}

// setProtocolFeatures: legal before SET_FEATURES, and again (QEMU sends it once
// per queue pair); only offered bits.
func (s *session) setProtocolFeatures(m *message) ([]byte, error) {
	u, err := number(m)
	if err != nil {
		return nil, err
	}
	if extra := Protocol(u) &^ s.srv.offered; extra != 0 {
		return nil, fmt.Errorf("vhostuser: protocol features %s are not offered", extra)
	}
	if p := Protocol(u); p != s.protocol {
		s.protocol = p
		s.log(hclog.Debug, "protocol features negotiated", "features", p)
	}
	return nil, nil
}

// getQueueNum: the number of rings. QEMU compares it with queue pairs, Cloud
// Hypervisor with rings; rings satisfies both, and an index beyond is refused.
func (s *session) getQueueNum(m *message) ([]byte, error) {
	return U64(len(s.rings)).Marshal(), empty(m)
}

// sendRARP: announce the MAC in the payload's first six bytes as if the guest
// had.
func (s *session) sendRARP(m *message) ([]byte, error) {
	if _, err := number(m); err != nil {
		return nil, err
	}
	return nil, s.dev.(Announcer).Announce([6]byte(m.payload))
}

// Bounds of an MTU (virtio 1.3, section 5.1.4).
const (
	minMTU = 68
	maxMTU = 65535
)

// netSetMTU: accept or refuse the MTU.
func (s *session) netSetMTU(m *message) ([]byte, error) {
	u, err := number(m)
	if err != nil {
		return nil, err
	}
	if u < minMTU || u > maxMTU {
		return nil, fmt.Errorf("vhostuser: MTU %d, it must be between %d and %d", u, minMTU, maxMTU)
	}
	return nil, s.dev.(MTUSetter).SetMTU(uint16(u))
}

// resetDevice: all rings are stopped and disabled and the device returns to
// its initial state. Memory and protocol features stay: QEMU sends only
// differences afterwards.
func (s *session) resetDevice(m *message) ([]byte, error) {
	if err := empty(m); err != nil {
		return nil, err
	}
	for i := range s.rings {
		s.stop(&s.rings[i])
		s.told(&s.rings[i])
		s.enable(&s.rings[i], false)
	}
	s.status = 0
	s.negotiated = false // the device hears of the features anew, even of the same
	s.dev.Reset()
	return nil, nil
}

// setStatus: information only. 0 comes after each stop and must not cost
// memory or features.
func (s *session) setStatus(m *message) ([]byte, error) {
	u, err := number(m)
	if err != nil {
		return nil, err
	}
	if u > 0xff {
		return nil, fmt.Errorf("vhostuser: device status %#x, it is one byte", u)
	}
	s.status = uint8(u)
	return nil, nil
}

// getStatus: what was set last.
func (s *session) getStatus(m *message) ([]byte, error) {
	return U64(s.status).Marshal(), empty(m)
}

// offered are the protocol features that dev can serve.
func offered(dev Device) Protocol {
	p := Offered
	if _, ok := dev.(MTUSetter); !ok {
		p &^= ProtocolMTU
	}
	if _, ok := dev.(Announcer); !ok {
		p &^= ProtocolRARP
	}
	if _, ok := dev.(Configurer); !ok {
		p &^= ProtocolConfig | ProtocolBackendReq
	}
	if _, ok := dev.(StateSaver); !ok {
		p &^= ProtocolDeviceState
	}
	return p
}
