// Package ndp is what a gateway says on the link that it shares with its
// guests: ARP (RFC 826), neighbour discovery (RFC 4861) and router
// advertisements with autoconfiguration (RFC 4862), resolvers and search
// domains (RFC 8106).
//
// It is handed frames and hands back frames. Every answer goes to the MAC that
// asked, also where its IP destination is a multicast address, so one guest's
// questions cost the others nothing. Only the advertisement that is due by the
// clock goes to everybody.
//
// The gateway remembers which MAC has which address, a bounded number for each
// guest; a guest that claims more forgets its own.
package ndp
