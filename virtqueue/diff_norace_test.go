//go:build !race

package virtqueue_test

const diffRaceSlow = 1
