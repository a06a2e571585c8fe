package archtest

import "strings"

const module = "vhostnet"

// rule is what one package may import besides the standard library. Imports
// must be of a lower level, so siblings never import each other.
type rule struct {
	level    int
	imports  []string // of this module, without its name
	external []string // of other modules; with a trailing slash: all below it
	syscall  bool     // the standard library's package syscall
}

// rules is the architecture: a package that is not here fails the test. Test
// files may import what their package may, the package itself and the helper
// packages.
var rules = map[string]rule{
	"virtio":       {level: 0},
	"metrics":      {level: 0},
	"internal/sys": {level: 0, external: list("golang.org/x/sys/unix"), syscall: true},

	"sharedmem": {level: 1, imports: list("internal/sys metrics virtio")},

	"virtqueue": {level: 2, imports: list("internal/sys metrics sharedmem virtio")},

	"nbl": {
		level: 3, imports: list("metrics sharedmem virtio virtqueue"),
		external: list("gvisor.dev/gvisor/pkg/tcpip/checksum"),
	},
	"vhostuser": {
		level: 3, imports: list("internal/sys metrics sharedmem virtio virtqueue"),
		external: list(hclog), syscall: true, // error numbers, modes of socket files
	},
	"worker": {level: 3, imports: list("internal/sys metrics sharedmem virtio")}, // knows no ring and no packet

	"nbl/ndis5": {level: 4, imports: list("nbl sharedmem")}, // nobody imports it

	"queues":  {level: 4, imports: list("internal/sys metrics nbl sharedmem virtio virtqueue worker")},
	"vswitch": {level: 4, imports: list("metrics nbl sharedmem virtio worker")}, // knows no ring

	// Services of the user-mode network: they know no switch and no packet.
	"uplink/tap": {
		level:    5,
		imports:  list("internal/sys metrics nbl sharedmem vswitch worker"),
		external: list(hclog),
	},
	"uplink/usernet/internal/limit": {level: 3},
	"uplink/usernet/internal/boot":  {level: 4, imports: list("metrics uplink/usernet/internal/limit"), external: list(hclog)},
	"uplink/usernet/internal/dhcp": {
		level: 4, imports: list("metrics uplink/usernet/internal/limit"),
		external: list(hclog + " github.com/insomniacslk/dhcp/"),
	},
	"uplink/usernet/internal/dns": {
		level: 4, imports: list("metrics uplink/usernet/internal/limit"),
		external: list(hclog + " golang.org/x/net/dns/dnsmessage"),
	},
	"uplink/usernet/internal/ndp": {level: 4, imports: list("metrics"), external: list("gvisor.dev/gvisor/pkg/tcpip/ gvisor.dev/gvisor/pkg/tcpip")},

	"netdev": {
		level:    5,
		imports:  list("internal/sys metrics nbl queues sharedmem vhostuser virtio virtqueue vswitch worker"),
		external: list(hclog),
	},

	"uplink/usernet": {
		level:    5,
		imports:  list("internal/sys metrics nbl sharedmem uplink/usernet/internal/boot uplink/usernet/internal/dhcp uplink/usernet/internal/dns uplink/usernet/internal/ndp virtio vswitch worker"),
		external: list(hclog + " gvisor.dev/gvisor/"),
	},

	"control": {
		level: 6, imports: list("internal/sys"), // sees the rest by an interface of its own
		external: list(hclog + " github.com/mdlayher/vsock github.com/prometheus/client_golang/prometheus github.com/prometheus/client_golang/prometheus/promhttp golang.org/x/time/rate"),
	},

	"cmd/vhostnet": {
		level:    7, // the only place that knows all names
		imports:  list("control internal/sys metrics nbl netdev queues sharedmem uplink/tap uplink/usernet vhostuser vhostuser/conform virtio virtqueue vswitch worker"),
		external: list(hclog + " github.com/spf13/ github.com/coreos/go-systemd/v22/ github.com/hashicorp/hcl/ github.com/zclconf/go-cty/"), syscall: true, // names of signals
	},
	// Other devices on the same packages: no Ethernet in them.
	"examples/rng": {level: 7, imports: list("sharedmem vhostuser virtio virtqueue worker"), external: list(hclog), syscall: true},

	"internal/archtest": {level: 0},
	"internal/disasm":   {level: 8},

	// The other ends of the ring and of the socket, for tests.
	"virtqueue/internal/check": {level: 0}, // states and steps only
	"virtqueue/internal/model": {level: 0}, // a second opinion has nothing of ours
	"virtqueue/vqtest":         {level: 3, imports: list("internal/sys sharedmem virtio virtqueue")},
	"vhostuser/vutest": {
		level:   4,
		imports: list("internal/sys sharedmem vhostuser virtio virtqueue virtqueue/vqtest"),
		syscall: true, // plays a hostile owner of descriptors
	},
	// Scenarios for any back-end, which a command plays.
	"vhostuser/conform": {level: 5, imports: list("internal/sys vhostuser vhostuser/vutest virtio"), syscall: true},

	// The services against the programs that guests run.
	"uplink/usernet/internal/clients": {
		level:    5,
		imports:  list("uplink/usernet/internal/boot uplink/usernet/internal/dhcp uplink/usernet/internal/dns uplink/usernet/internal/ndp"),
		external: list("gvisor.dev/gvisor/pkg/tcpip gvisor.dev/gvisor/pkg/tcpip/"),
	},

	// Programs that start ours or its tests, and what runs inside the guests.
	"bench/bare":              {level: 7, imports: list("sharedmem vhostuser virtio virtqueue worker"), external: list(hclog), syscall: true},
	"bench/dpdk":              {level: 8, syscall: true},
	"bench/instructions":      {level: 8},
	"bench/net":               {level: 10, imports: list("integration"), syscall: true},
	"internal/mutants":        {level: 8, syscall: true},
	"integration/agent":       {level: 8, syscall: true},
	"integration/stream":      {level: 8},
	"integration":             {level: 9, imports: list("integration/agent integration/stream"), syscall: true},
	"integration/guest":       {level: 9, imports: list("integration/agent integration/stream"), syscall: true},
	"integration/frontend":    {level: 8, imports: list("vhostuser/vutest"), syscall: true},
	"integration/demo":        {level: 10, imports: list("integration"), syscall: true},
	"integration/conformance": {level: 10, imports: list("integration"), syscall: true},
}

const hclog = "github.com/hashicorp/go-hclog"

// helpers may be imported by any test, and by other helpers as rules says.
var helpers = list("virtqueue/vqtest virtqueue/internal/model vhostuser/vutest")

// testExternal may be imported by any test.
var testExternal = list("github.com/google/go-cmp/ go.yaml.in/yaml/v3")

// unsafeDirs are the packages that may have unsafe, in files *_unsafe.go.
var unsafeDirs = list("internal/sys sharedmem")

func list(names string) []string { return strings.Fields(names) }

// linkable is what may be linked into the packages of the frame's way, all
// that they reach taken together, besides the standard library and ours.
var linkable = list("golang.org/x/sys/unix gvisor.dev/gvisor/pkg/tcpip/checksum")

// unlinkable is what of the standard library must not be: it logs, starts
// programs or serves.
var unlinkable = list("log log/slog net/http os/exec")
