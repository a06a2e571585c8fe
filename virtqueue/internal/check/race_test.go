//go:build race

package check

// quick leaves the larger cases out: there is one goroutine, and the race
// detector would take minutes to find nothing.
const quick = true
