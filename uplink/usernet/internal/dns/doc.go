// Package dns answers the guests' DNS queries (RFC 1035). Names of the VMs and
// of the host it knows itself; everything else it hands to the host's
// resolvers, byte for byte but for the identifier, so that EDNS and DNSSEC pass
// as they are, and remembers the answer, also that there is none (RFC 2308).
//
// A Forwarder is handed messages of UDP, and connections of TCP. Each guest has
// a cache and queries under way of its own: what one asks costs the others
// nothing. Whether a resolver is alive is not judged by what guests ask of it,
// which may be slow for their reasons, but by a question of the Forwarder's
// own; while all are dead, guests are told so at once.
package dns
