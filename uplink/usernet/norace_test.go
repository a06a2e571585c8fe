//go:build !race

package usernet

const raceSlow = 1
