package queues

// Properties are what queues can do (NDIS, SupportedQueueProperties).
type Properties uint32

// Properties of queues.
const (
	PropertyMSIX            Properties = 0x1 // each ring has a call descriptor of its own
	PropertyVMQueue         Properties = 0x2
	PropertyDynamicAffinity Properties = 0x8  // affinity can change while the queue runs
	PropertyCoalescing      Properties = 0x10 // rings that a worker fills share its calls
)

// Values of the other members of Capabilities, as in NDIS.
const (
	FilterTypeVMQueue  = 0x1 // EnabledFilterTypes
	QueueTypeVMQueue   = 0x1 // EnabledQueueTypes
	FilterTestEqual    = 0x1 // SupportedFilterTests
	HeaderMAC          = 0x1 // SupportedHeaders
	MACFieldDest       = 0x1 // SupportedMACHeaderFields
	MACFieldVLAN       = 0x8
	capabilityMACField = MACFieldDest | MACFieldVLAN
)

// Capabilities are what an adapter can filter
// (NDIS_RECEIVE_FILTER_CAPABILITIES). Members that NDIS 6.30 keeps at zero, and
// those about packet coalescing, are left out.
type Capabilities struct {
	EnabledFilterTypes       uint32
	EnabledQueueTypes        uint32
	NumQueues                int // without queue 0
	SupportedQueueProperties Properties
	SupportedFilterTests     uint32
	SupportedHeaders         uint32
	SupportedMACHeaderFields uint32
	MaxMACHeaderFilters      int // of the adapter
}

// maxFilters bounds the filters of an adapter: each is an entry of the
// forwarding table that nothing displaces.
const maxFilters = 1 << 16

// HardwareCapabilities is everything that the adapter can do, whatever the
// configuration says (OID_RECEIVE_FILTER_HARDWARE_CAPABILITIES).
func (a *Adapter) HardwareCapabilities() Capabilities {
	return Capabilities{
		EnabledFilterTypes:       FilterTypeVMQueue,
		EnabledQueueTypes:        QueueTypeVMQueue,
		NumQueues:                a.maxQueues,
		SupportedQueueProperties: PropertyMSIX | PropertyVMQueue | PropertyDynamicAffinity | PropertyCoalescing,
		SupportedFilterTests:     FilterTestEqual,
		SupportedHeaders:         HeaderMAC,
		SupportedMACHeaderFields: capabilityMACField,
		MaxMACHeaderFilters:      maxFilters,
	}
}

// CurrentCapabilities is what is switched on
// (OID_RECEIVE_FILTER_CURRENT_CAPABILITIES): without Options.DisableVMQ the
// hardware's, and without a VLAN test when Options.DisableVLANFilters says so.
func (a *Adapter) CurrentCapabilities() Capabilities {
	if a.vmqOff {
		return Capabilities{}
	}
	c := a.HardwareCapabilities()
	if a.vlanOff {
		c.SupportedMACHeaderFields &^= MACFieldVLAN
	}
	return c
}

// GlobalParameters says which types of filters and queues are enabled
// (OID_RECEIVE_FILTER_GLOBAL_PARAMETERS).
func (a *Adapter) GlobalParameters() (filterTypes, queueTypes uint32) {
	c := a.CurrentCapabilities()
	return c.EnabledFilterTypes, c.EnabledQueueTypes
}
