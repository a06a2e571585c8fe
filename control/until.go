package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
)

// serveUntil answers the callers of a listener until ctx ends: nil unless the
// listener failed. Who waits for an answer gets it, who is stuck is cut off.
func serveUntil(ctx context.Context, server *http.Server, l net.Listener) error {
	base, cut := context.WithCancel(context.Background()) // of requests: streams end with it
	defer cut()
	server.BaseContext = func(net.Listener) context.Context { return base }
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-ctx.Done():
		case <-base.Done():
		}
		cut()
		late, cancel := context.WithTimeout(context.Background(), endTime)
		defer cancel()
		if err := server.Shutdown(late); err != nil {
			_ = server.Close() // callers that are stuck
		}
	}()
	err := server.Serve(l)
	cut()
	<-ended
	_ = server.Close() // whoever came in the last instant
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control: %w", err)
}
