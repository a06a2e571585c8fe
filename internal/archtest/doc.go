// Package archtest holds one test: that packages import only what their place
// in the architecture (docs/architecture.md) allows. The linter says the same
// for the packages below level 5 while one types; this test also sees files
// behind build tags, test files and packages that no linter rule names.
package archtest
