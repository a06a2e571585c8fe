package control

// Port is a place on the switch.
type Port struct {
	Name      string            `json:"name"`
	Kind      string            `json:"kind"`             // "vm", or what the uplink is, such as "tap"
	Socket    string            `json:"socket,omitempty"` // of a VM's port
	Options   map[string]string `json:"options,omitempty"`
	MAC       string            `json:"mac,omitempty"` // that the port was told, or derived
	Link      string            `json:"link"`          // "up" or "down", as it was set
	Connected bool              `json:"connected"`     // a front-end is there
	Driver    bool              `json:"driver"`        // the guest's driver has negotiated its features
	QueueMode string            `json:"queue_mode,omitempty"`
	Queue     uint16            `json:"queue"` // of its own; 0: queue 0 serves it
	Rings     []Ring            `json:"rings,omitempty"`
	Stalled   bool              `json:"stalled"`                // it gives no buffers, and frames to it are dropped
	Memory    uint64            `json:"memory_bytes,omitempty"` // of a VM's port: of the daemon's own, without the guest's
}

// Ring is a ring that the front-end has started.
type Ring struct {
	Index   int      `json:"index"`
	Enabled bool     `json:"enabled"`
	Broken  bool     `json:"broken"`
	Polling *Polling `json:"polling,omitempty"` // of a transmit ring in the mode adaptive
}

// Polling is how a ring has been polled while it was empty, until its next frame
// came.
type Polling struct {
	Spin     int64  `json:"spin_ns"`  // when it is empty the next time, at most; 0: not at all
	Found    uint64 `json:"found"`    // times that the frame came meanwhile
	Vain     uint64 `json:"vain"`     // times that it did not, so it took a kick
	Unpolled uint64 `json:"unpolled"` // times that it was left to a kick at once
}

// PortRequest adds a port. Options are those of the command line, as
// "vhostnet run --help" lists them.
type PortRequest struct {
	Name    string            `json:"name"`
	Socket  string            `json:"socket"`
	Options map[string]string `json:"options,omitempty"`
}

// LinkRequest takes a link down or up.
type LinkRequest struct {
	Up bool `json:"up"`
}

// Queue is a VM queue (NDIS_RECEIVE_QUEUE_INFO); number 0 is the switch's own.
type Queue struct {
	ID               uint16   `json:"id"`
	Port             string   `json:"port,omitempty"`
	Name             string   `json:"name,omitempty"`
	Owner            string   `json:"owner,omitempty"` // who allocated it
	State            string   `json:"state"`
	OperationalState string   `json:"operational_state"` // the state as NDIS tells it
	Filters          int      `json:"filters"`
	Affinity         []int    `json:"affinity,omitempty"` // workers that were chosen
	Worker           *int     `json:"worker,omitempty"`   // that polls its first pair now
	SuggestedBuffers uint32   `json:"suggested_buffers"`
	Memory           []Memory `json:"memory,omitempty"`
}

// QueueRequest allocates a queue for a port (ALLOCATE_QUEUE).
type QueueRequest struct {
	Port             string `json:"port"`
	Name             string `json:"name,omitempty"`
	Affinity         []int  `json:"affinity,omitempty"` // workers; the lowest counts
	SuggestedBuffers uint32 `json:"suggested_buffers,omitempty"`
}

// QueueChange changes what can change while a queue lives (QUEUE_PARAMETERS).
// What is left out stays.
type QueueChange struct {
	Name             *string `json:"name,omitempty"`
	Affinity         *[]int  `json:"affinity,omitempty"` // empty: it goes where load sends it
	SuggestedBuffers *uint32 `json:"suggested_buffers,omitempty"`
}

// CompletionRequest ends a batch of allocations (QUEUE_ALLOCATION_COMPLETE).
type CompletionRequest struct {
	Queues []uint16 `json:"queues"`
}

// Completion is what became of one queue of a batch.
type Completion struct {
	Queue  uint16 `json:"queue"`
	Status string `json:"status"`
	State  string `json:"state,omitempty"` // of the queue, if there is one
	Error  string `json:"error,omitempty"` // one sentence, unless it was done
}

// Memory is bytes that are allocated under a queue for a usage.
type Memory struct {
	Usage       string `json:"usage"`
	Bytes       uint64 `json:"bytes"`
	Allocations int    `json:"allocations"`
}

// QueueMemory is what is allocated under one queue, of the NIC of one port.
type QueueMemory struct {
	Queue uint16 `json:"queue"`
	Port  string `json:"port,omitempty"` // queue 0: the switch's own
	Memory
}

// MemoryReport is all that is allocated.
type MemoryReport struct {
	Allocations []QueueMemory `json:"allocations"`
	Ports       []PortMemory  `json:"ports"` // not in the total
	Total       uint64        `json:"total_bytes"`
	Note        string        `json:"note"`
}

// PortMemory is what a VM's port takes of the daemon's own memory, beyond what
// queues have allocated and beyond its rings, which are the guest's.
type PortMemory struct {
	Port  string `json:"port"`
	Bytes uint64 `json:"bytes"`
}

// MemoryNote is what who reads a MemoryReport has to know.
const MemoryNote = "A guest's memory is its own: receive and transmit allocations are views of the whole of it, and views of the same bytes are each counted. What a port itself takes of the daemon's memory is its own."

// Filter is a destination whose frames are a queue's (NDIS_RECEIVE_FILTER_INFO).
// A filter that a port wants while it has no queue has no id.
type Filter struct {
	ID     uint32 `json:"id,omitempty"`
	Queue  uint16 `json:"queue"` // that has it
	Port   string `json:"port,omitempty"`
	Origin string `json:"origin"` // configuration, control or guest; of queue 0: who set it
	Address
}

// Address is a station's address. Without VLAN it is of untagged frames;
// AnyVLAN is of all.
type Address struct {
	MAC     string `json:"mac"`
	VLAN    uint16 `json:"vlan,omitempty"`
	AnyVLAN bool   `json:"any_vlan,omitempty"`
}

// FilterRequest sets a filter (SET_FILTER) on a port's queue, or on a queue by
// its id. A port in the mode auto keeps it, and sets it again at each start of
// its VM.
type FilterRequest struct {
	Port  string `json:"port,omitempty"`
	Queue uint16 `json:"queue,omitempty"`
	Address
}

// MoveRequest moves a filter to another queue (MOVE_FILTER).
type MoveRequest struct {
	Queue uint16 `json:"queue"`
}

// Forward is a way into a user-mode network: who connects to Listen on the host
// reaches Guest.
type Forward struct {
	Network string `json:"network"` // tcp or udp
	Listen  string `json:"listen"`  // an address and a port, or unix: and a path
	Guest   string `json:"guest"`   // an address of the network, or the name of a VM's port, and a port
	Port    string `json:"port"`    // of the network
	Origin  string `json:"origin"`  // configuration or control
}

// ForwardRequest adds a way in. Without Port it is one of the only user-mode
// network.
type ForwardRequest struct {
	Network string `json:"network"` // tcp or udp
	Listen  string `json:"listen"`  // port 0: the host chooses one
	Guest   string `json:"guest"`   // as in Forward
	Port    string `json:"port,omitempty"`
}

// Entry is an address that the switch knows.
type Entry struct {
	Address
	Tagged  bool    `json:"tagged,omitempty"` // vlan is only a tag, between ports that are in no VLAN
	Kind    string  `json:"kind"`             // filter, static or learned
	Port    string  `json:"port"`
	Queue   uint16  `json:"queue,omitempty"`          // of a filter
	Seconds float64 `json:"unseen_seconds,omitempty"` // learned: since its last frame
}

// Capabilities are what the switch can filter (NDIS_RECEIVE_FILTER_CAPABILITIES).
type Capabilities struct {
	Hardware CapabilitySet `json:"hardware"` // whatever the configuration says
	Current  CapabilitySet `json:"current"`  // what is switched on
}

// CapabilitySet are capabilities as the bits of NDIS.
type CapabilitySet struct {
	EnabledFilterTypes       uint32 `json:"enabled_filter_types"`
	EnabledQueueTypes        uint32 `json:"enabled_queue_types"`
	NumQueues                int    `json:"num_queues"` // without queue 0
	SupportedQueueProperties uint32 `json:"supported_queue_properties"`
	SupportedFilterTests     uint32 `json:"supported_filter_tests"`
	SupportedHeaders         uint32 `json:"supported_headers"`
	SupportedMACHeaderFields uint32 `json:"supported_mac_header_fields"`
	MaxMACHeaderFilters      int    `json:"max_mac_header_filters"`
}

// Counters are what a port has counted. Tx is from the VM, Rx to the VM.
type Counters struct {
	Port          string            `json:"port"`
	TxFrames      uint64            `json:"tx_frames"`
	TxBytes       uint64            `json:"tx_bytes"`
	RxFrames      uint64            `json:"rx_frames"`
	RxBytes       uint64            `json:"rx_bytes"`
	SoftOffload   uint64            `json:"soft_offload"`
	Flooded       uint64            `json:"flooded"`
	Moved         uint64            `json:"moved"`
	ForeignSource uint64            `json:"foreign_source"`
	TableFull     uint64            `json:"table_full"`
	Stalls        uint64            `json:"stalls"`
	Drops         map[string]uint64 `json:"drops"` // by reason, without zeros
	Sessions      uint64            `json:"sessions"`
	Refused       uint64            `json:"refused_requests"`
	Closed        uint64            `json:"closed_sessions"`
}
