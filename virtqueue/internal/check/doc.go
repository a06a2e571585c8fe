// Package check goes through every possible course of the talk between a
// driver and a device about whom to wake, for small rings, and looks for one
// at whose end both sleep with work to be done.
//
// # What is modelled
//
// The words of a ring that take part (machine.go): indices or, packed, the
// flags of descriptors, and the wishes of both sides. A driver (driver.go)
// adds chains one or two at a time, takes used ones back, and goes to sleep as
// sections 2.7.13.4, 2.7.14, 2.8.21.2 and 2.8.22 of virtio 1.3 say: it writes,
// fences, looks again. It adds more while it sleeps, as a transmitter does. A
// device (device.go) does what virtqueue/notify.go and virtqueue/queue.go do:
// New, Pop, Push, Arm, and sleeps when Arm says that there is nothing. Each
// access to a word is a step of its own, and the steps of both sides come in
// every order. Counters are kept modulo 8, so that they wrap around; packed
// rings have 2, 3 and 4 slots, split ones 2 and 4. The protocols are split with flags, split with EVENT_IDX,
// packed with ENABLE and DISABLE, packed with DESC.
//
// The machines (machine.go) are what the fences are for:
//
//   - TSO, as on amd64: a store waits in a buffer, in order, and is seen by
//     others when it leaves it; a load may so overtake a store.
//   - Weak, as on arm64: stores to different words leave the buffer in any
//     order, unless one is a release; a load may have been done at any time
//     since the last acquire or fence of its thread, unless it is an acquire
//     itself; an acquire does not overtake a release (STLR, LDAR).
//
// Not modelled: payload and used entries, descriptor chains (one descriptor is
// one chain), a store that overtakes a load before it (every store here
// depends on the loads before it), other devices.
//
// A device may once be replaced by a new one (Case.Restarts), which does not
// know what the old one has signalled. It may have died between the store of
// used.idx and the call: then a driver may sleep on chains that came back
// until the new device pushes, and its first Push must call. So, of states
// after such a death, those count from the first Push on.
//
// # What is found
//
// [Explore] answers with the number of states and with the shortest way into a
// stuck one. Without a flaw there is none. Each [Flaw] takes one thing away
// that the protocol needs, and must lead to a stuck state: what the check is
// worth.
package check
