//go:build !race

package vhostuser

// defaultSessions is how many random front-ends are played.
const defaultSessions = 10_000
