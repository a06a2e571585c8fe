// Package conform asks a vhost-user net back-end, whichever it is, to behave as
// front-ends need it to: it plays them over the back-end's socket, each start
// sequence and each trap that others have fallen into, and says what held.
//
//	outcomes, err := conform.Run(ctx, conform.Options{Path: "/tmp/a.sock", Peer: "/tmp/b.sock"}, nil)
//
// A scenario is a short script over [vutest.FrontEnd], on connections of its
// own. Every wait in it is bounded, so that a back-end that hangs is a failure
// with a sentence, as is one that ends. What a back-end does not offer is no
// failure.
//
// With a second port of the back-end (Options.Peer), to which frames of the
// first one go and the other way round, scenarios look at frames on their whole
// way; without one, at what a single port shows: that transmitted frames are
// taken and given back.
package conform
