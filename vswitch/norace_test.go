//go:build !race

package vswitch

const raceSlow = 1
