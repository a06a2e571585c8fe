package vhostuser

import "fmt"

// Configurer is a [Device] with a configuration space; only such a one offers
// the protocol features CONFIG and BACKEND_REQ.
type Configurer interface {
	// Config is the configuration space as it stands. What is read beyond its
	// end is zero. When it changes by itself the device's owner calls
	// [Server.ConfigChanged].
	Config() []byte
}

// Config is the payload of GET_CONFIG and SET_CONFIG: a window of Data on the
// configuration space. Its size field is the length of Data.
type Config struct {
	Offset uint32
	Flags  uint32
	Data   []byte
}

const configHead = 12

// ConfigFlagMigration in [Config.Flags] of SET_CONFIG says that a migration
// restores the space, and not that the driver writes to it.
const ConfigFlagMigration uint32 = 1

// Marshal gives the 12 + len(Data) bytes of c.
func (c Config) Marshal() []byte {
	b := make([]byte, 0, configHead+len(c.Data))
	b = order.AppendUint32(b, c.Offset)
	b = order.AppendUint32(b, uint32(len(c.Data)))
	b = order.AppendUint32(b, c.Flags)
	return append(b, c.Data...)
}

// Unmarshal reads c from a payload whose length agrees with the size it says.
// Data is part of b.
func (c *Config) Unmarshal(b []byte) error {
	if len(b) < configHead {
		return fmt.Errorf("%w: %d bytes of a configuration window's %d-byte head", ErrShort, len(b), configHead)
	}
	size := order.Uint32(b[4:])
	if uint64(len(b)) != configHead+uint64(size) {
		return fmt.Errorf("vhostuser: configuration window of %d bytes in a payload of %d, which has room for %d", size, len(b), len(b)-configHead)
	}
	*c = Config{Offset: order.Uint32(b), Flags: order.Uint32(b[8:]), Data: b[configHead:]}
	return nil
}

// getConfig: any window on the space, also one beyond its end. The flags mean
// nothing here; front-ends fill them in differently.
func (s *session) getConfig(m *message) ([]byte, error) {
	var c Config
	if err := c.Unmarshal(m.payload); err != nil {
		return nil, err
	}
	space := s.dev.(Configurer).Config()
	c.Data = make([]byte, len(c.Data))
	if uint64(c.Offset) < uint64(len(space)) {
		copy(c.Data, space[c.Offset:])
	}
	return c.Marshal(), nil
}

// setConfig: the space is read-only. A migration that restores it changes
// nothing: what this port says of itself is this host's affair.
func (s *session) setConfig(m *message) ([]byte, error) {
	var c Config
	if err := c.Unmarshal(m.payload); err != nil {
		return nil, err
	}
	if c.Flags != ConfigFlagMigration {
		return nil, fmt.Errorf("vhostuser: %d bytes at %d of the configuration space are to be written, it is read-only", len(c.Data), c.Offset)
	}
	return nil, nil
}
