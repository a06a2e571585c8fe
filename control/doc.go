// Package control is the control API: ports, queues, filters, memory, the
// forwarding table, counters and events, by HTTP and JSON on a unix socket. It
// knows nothing of the packet's way: what it asks for it asks of a [Backend],
// an interface of its own, which the program implements.
//
//	curl --unix-socket /run/vhostnet/control.sock http://x/v1/ports
//	curl --unix-socket /run/vhostnet/control.sock http://x/openapi.yaml
//
// The verbs of queues and filters are those of package queues, which are those
// of OID_RECEIVE_FILTER_* in NDIS:
//
//	ALLOCATE_QUEUE              POST   /v1/queues
//	QUEUE_ALLOCATION_COMPLETE   POST   /v1/queues/complete   several, a status each
//	QUEUE_PARAMETERS            GET, PATCH /v1/queues/{queue}
//	FREE_QUEUE                  DELETE /v1/queues/{queue}    202 and PENDING while it waits
//	ENUM_QUEUES                 GET    /v1/queues
//	SET_FILTER                  POST   /v1/filters
//	CLEAR_FILTER                DELETE /v1/filters/{filter}
//	MOVE_FILTER                 POST   /v1/filters/{filter}/move
//	ENUM_FILTERS                GET    /v1/filters?queue=N
//	PARAMETERS                  GET    /v1/filters/{filter}
//	capabilities                GET    /v1/capabilities
//
// An answer that is no success is an [Error]: the name of an NDIS status and a
// sentence, and for a list that does not fit (?room=N) how much room it needs.
//
// # Who may ask
//
// A [Server] answers root and its own user, by the credentials that the kernel
// has of the caller. Whoever is let in may do everything that the Backend can.
//
// # One caller's part
//
// The same routes serve a caller who is to see his own port only, a guest say:
// make a [Handler] over a restricted Backend. It embeds [Nothing], which shows
// and does nothing, and implements what the caller may do, by asking the whole
// Backend and leaving out what is not his:
//
//	type guest struct {
//		control.Nothing
//		whole control.Backend
//		port  string
//	}
//
//	func (g guest) Queues() []control.Queue // those of whole whose Port is g.port
//	func (g guest) SetFilter(r control.FilterRequest) (control.Filter, error) // checks the policy, sets r.Port
//
//	h := control.NewHandler(guest{whole: b, port: "web"}, control.HandlerOptions{Streams: 1, Body: 4096})
//
// Nothing of a Handler is shared with another one, so each caller has limits of
// his own. Who the caller is the listener knows; an http.Server of the channel's
// own serves the Handler, and a [Client] made by [NewClientOver] reaches it.
//
// # Guests
//
// [Guests] is the guest channel: each [Guest] is one VM's, with its port's
// [GuestPolicy]. A VM is known by its CID on a listener of AF_VSOCK, which all
// share, or by a unix socket that is its own (hybrid vsock: the monitor connects
// to PATH_8470 when its guest dials port 8470 of the host). [NewGuestClient] is
// the other side.
//
//	AF_VSOCK    --> Guests.Serve --CID--> Guest --.
//	PATH_8470   ------------------------> Guest --+--> Handler over the guest's part --> GuestHost
//
// A guest sees its port, its queue, its port's filters, counters and events. It
// may set filters for addresses that no other port has, in its port's VLANs one
// by one, up to a number, and take back those that it has set; and it may say
// how many receive buffers are good. It has 8 connections, 2 streams of events
// and 20 requests a second; what is more waits or is closed, and nobody else
// waits with it.
//
// # Slow callers
//
// Bodies, headers, connections and streams are bounded, in length, number and
// time. A caller that sends nothing or reads nothing loses its connection; it
// holds no lock and no goroutine but its own. Events wait in a queue of 256 for
// each stream; what does not fit is lost, and the stream says how many.
package control
