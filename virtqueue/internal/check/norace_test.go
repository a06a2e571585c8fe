//go:build !race

package check

const quick = false
