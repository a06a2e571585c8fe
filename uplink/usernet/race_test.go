//go:build race

package usernet

// raceSlow is by how much tests of sheer numbers are cut under the race
// detector, which finds nothing new in them and takes 20 times as long.
const raceSlow = 5
