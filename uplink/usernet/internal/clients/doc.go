// Package clients tests the services of the user-mode network with programs
// that others wrote: what guests run to get an address, to find their router,
// to resolve names and to load files. The tests need root, for a network
// namespace of their own, and are behind the tag integration.
package clients
