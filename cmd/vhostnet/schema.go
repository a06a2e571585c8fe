package main

import (
	"github.com/hashicorp/hcl/v2"
)

// kind is what a key of the configuration file takes.
type kind uint8

const (
	scalar kind = iota // a string or a number
	onOff              // true or false, and on or off in flags
	plus               // a list, joined by '+' in flags
	comma              // a list, joined by ',' in flags
	each               // a list, of which each is an option
)

// key is an attribute of the configuration file. Each stands for a flag or for
// an option of one, which judges the value.
type key struct {
	name   string // in the file
	option string // the flag or option
	kind   kind
}

// settingKeys are the flags of addSettings.
var settingKeys = []key{
	{"workers", "workers", scalar},
	{"cpus", "cpus", comma},
	{"placement", "placement", scalar},
	{"state_dir", "state-dir", scalar},
	{"socket_mode", "socket-mode", scalar},
	{"socket_owner", "socket-owner", scalar},
	{"socket_group", "socket-group", scalar},
	{"control", "control", scalar},
	{"guest_port", "guest-port", scalar},
	{"stats", "stats", scalar},
	{"output", "output", scalar},
	{"log_format", "log-format", scalar},
	{"log_level", "log-level", scalar},
}

// blocks are those at the top of the file.
var blocks = []string{"switch", "port", "uplink"}

// socketKey is what --port has between '=' and the first comma.
const socketKey = "socket"

// portKeys are a port's place and its options.
var portKeys = []key{
	{socketKey, "", scalar},
	{"role", "role", scalar},
	{"inflight", "inflight", onOff},
	{"mac", "mac", scalar},
	{"mode", "mode", scalar},
	{"mtu", "mtu", scalar},
	{"pairs", "pairs", scalar},
	{"mask", "mask", plus},
	{"frontend", "frontend", scalar},
	{"queue", "queue", scalar},
	{"static", "static", plus},
	{"vlan", "vlan", scalar},
	{"trunk", "trunk", plus},
	{"native", "native", scalar},
	{"protected", "protected", onOff},
	{"mirror", "mirror", scalar},
	{"sink", "sink", onOff},
	{"transparent", "transparent", onOff},
	{"guest", "guest", scalar},
	{"guest_cid", "guest-cid", scalar},
	{"guest_socket", "guest-socket", scalar},
	{"guest_filters", "guest-filters", scalar},
	{"socket_mode", "socket-mode", scalar},
	{"socket_owner", "socket-owner", scalar},
	{"socket_group", "socket-group", scalar},
}

// uplinkKeys are the options of every uplink.
var uplinkKeys = []key{
	{"mode", "mode", scalar},
	{"vlan", "vlan", scalar},
	{"trunk", "trunk", plus},
	{"native", "native", scalar},
	{"protected", "protected", onOff},
	{"mirror", "mirror", scalar},
	{"transparent", "transparent", onOff},
}

// tapKeys are the options of an uplink of kind tap.
var tapKeys = []key{
	{"device", "device", scalar},
	{"queues", "queues", scalar},
}

// userKeys are the options of an uplink of kind user.
var userKeys = []key{
	{"host", "host", onOff},
	{"ipv4", "ipv4", scalar},
	{"ipv6", "ipv6", scalar},
	{"mac", "mac", scalar},
	{"mtu", "mtu", scalar},
	{"forward", "forward", each},
	{"domain", "domain", scalar},
	{"leases", "leases", scalar},
	{"reserve", "reserve", each},
	{"resolver", "resolver", each},
	{"ntp", "ntp", each},
	{"boot", "boot", scalar},
	{"boot_file", "boot-file", each},
}

// bodySchema says which keys and blocks may be in a body of the file.
func bodySchema(keys []key, blocks ...string) *hcl.BodySchema {
	s := &hcl.BodySchema{}
	for _, k := range keys {
		s.Attributes = append(s.Attributes, hcl.AttributeSchema{Name: k.name})
	}
	for _, b := range blocks {
		labels := []string{"name"}
		if b == "uplink" {
			labels = []string{"kind", "name"}
		}
		s.Blocks = append(s.Blocks, hcl.BlockHeaderSchema{Type: b, LabelNames: labels})
	}
	return s
}
