//go:build race

package virtqueue_test

// diffRaceSlow is by how much the differential is cut under the race detector,
// which finds nothing new in one goroutine and takes 20 times as long.
const diffRaceSlow = 20
