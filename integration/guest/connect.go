package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// answerTime bounds a connection that is to be closed at once.
const answerTime = 10 * time.Second

// connect opens connections, one after the other, for a time, each of which the
// other side closes, and tells how many there were.
func connect(addr string, lasting time.Duration) error {
	count, began := 0, time.Now()
	for time.Since(began) < lasting {
		if err := visit(addr); err != nil {
			return fmt.Errorf("connection %d: %w", count+1, err)
		}
		count++
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{"connections": float64(count), "seconds": time.Since(began).Seconds()})
}

var errSpoken = errors.New("the other side sent something, and was only to close")

// visit makes one connection and waits for its end.
func visit(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, answerTime)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	switch _, err := conn.Read(make([]byte, 1)); {
	case err == nil:
		return errSpoken
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}
