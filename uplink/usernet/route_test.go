package usernet

import (
	"net/netip"
	"slices"
	"testing"
)

// What the host's tables say is its own, a prefix on the loopback and a router's
// anycast address as well.
func TestLocalRoutes(t *testing.T) {
	const trie = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.77.0.0/24 2 0 2
        |-- 10.77.0.0
           /24 link UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.77.0.0
        /24 host LOCAL
     |-- 10.77.0.255
        /32 link BROADCAST
     |-- odd
        /32 host LOCAL
     |-- 127.0.0.0
        /8 host LOCAL
        /99 host LOCAL
`
	want := []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("10.77.0.255/32"), netip.MustParsePrefix("127.0.0.0/8")}
	if got := localRoutes4(trie); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	const routes = `20010db8000700000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
20010db8000700000000000000000000 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000003 00000000 00100001     eth0
20010db8000700000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000003 00000000 80200001     eth0
zz 80 0 0 0 0 0 0 80200001 eth0
too short
`
	want = []netip.Prefix{netip.MustParsePrefix("2001:db8:7::/128"), netip.MustParsePrefix("2001:db8:7::1/128")}
	if got := localRoutes6(routes); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if list, err := localPrefixes(); err != nil || !slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddr("127.9.9.9")) }) {
		t.Errorf("this host's: %v, %v", list, err)
	}
}
