// Package dhcp gives guests their addresses: DHCPv4 (RFC 2131, 2132) and DHCPv6
// (RFC 8415, IA_NA and information requests), from one store of leases.
//
// A Server is handed messages, the payload of UDP packets to ports 67 and 547,
// and hands back messages. Who sent one is a Client: the port of the switch
// that it came in at, and the source MAC of its frame. A lease is bound to
// these two alone, not to client identifiers or DUIDs, which a guest invents:
// so firmware, boot loader and system of one VM share an address, and inventing
// identifiers brings nothing. A guest that invents MACs has its share of
// addresses and no more.
//
// A lease outlives its time, until its address is needed for another: who comes
// back gets what it had. It outlives the process in a file, if one is named.
// An address that a client claims to have, and that is free, is given to it,
// also if nothing is known of it: no other server is on this link.
package dhcp
