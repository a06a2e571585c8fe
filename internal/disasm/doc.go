// Package disasm holds a test that reads the machine code of the functions that
// work on rings, for amd64 and arm64, and finds in it the instructions that
// docs/memory-model.md promises. No test that runs the code on amd64 can see a
// barrier that only arm64 needs, and none sees for sure one that amd64 needs.
package disasm
