// Command mutants asks the tests whether they would notice a defect. Each file
// testdata/mutants/TOPIC/NAME.diff takes one safeguard out of the program and
// names the test that must fail then:
//
//	Test: virtqueue TestV36_AvailIndexAhead
//	CI: yes
//	Why: without the bound a driver makes the device take chains that are not there
//
//	--- a/virtqueue/queue.go
//	+++ b/virtqueue/queue.go
//	@@
//	-	if ahead > room {
//	+	if ahead > 1<<16 {
//
// "CI: yes" puts it among those that every change runs; all run in the soak.
// "Flags:" are further flags of go test. "Timeout:" is a bound of its own for a
// mutant that makes its test hang. A mutant is given to the compiler as
// an overlay, so the tree is left alone.
//
// The lines of a hunk that are not added must stand exactly once in the file,
// wherever that is; line numbers are not looked at. When the code has changed,
// the diff does not apply and the run fails: mend it, or take it out with the
// safeguard.
//
// The run fails when a diff is malformed or does not apply, when a mutant does
// not compile, when the named test does not exist or fails without the mutant,
// and when a mutant survives.
package main
