//go:build race

package vhostuser

// defaultSessions is less where every access is watched.
const defaultSessions = 2_000
