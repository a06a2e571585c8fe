// Package integration runs real guests: Debian's kernel with a small root file
// system of ours, in QEMU, on vhost-user NICs that a vhostnet process serves.
//
// A [Lab] is one vhostnet process and the guests on its ports. Its parts are
// usable alone: [Guest] is one QEMU and the agent inside it, [Backend] the
// vhostnet process, [Image] what guests boot. What the machine must have is
// made by scripts/setup.sh and found by [Find].
//
// The environment: VHOSTNET names the vhostnet program to run, which is built
// from this module otherwise; VHOSTNET_LOGS a directory in which the tests' logs
// stay; VHOSTNET_CACHE where scripts/setup.sh unpacks what is not installed.
//
// Everything that is started here is owned: it is stopped by its process id
// when its owner is closed, and by the kernel should this process die first.
// Every wait takes a context. The tests themselves need the build tag
// "integration"; the command in demo/ shows the same machinery to a person.
package integration
