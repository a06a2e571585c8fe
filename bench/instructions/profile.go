package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// costs are instructions by function.
type costs map[string]float64

// parse reads callgrind's profile (its manual, "Callgrind Format
// Specification"): what each function executed itself, without those that it
// called.
func parse(r io.Reader) (costs, error) {
	c := costs{}
	names := map[string]string{} // of the numbers that stand for them
	current, called := "", false
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "fn="):
			current = name(names, line[len("fn="):])
		case strings.HasPrefix(line, "cfn="):
			name(names, line[len("cfn="):])
		case strings.HasPrefix(line, "calls="):
			called = true // the next line is what the callee cost
		case line != "" && strings.ContainsRune("0123456789+-*", rune(line[0])):
			if called {
				called = false
				continue
			}
			_, cost, _ := strings.Cut(line, " ")
			n, err := strconv.ParseFloat(cost, 64)
			if err != nil {
				return nil, fmt.Errorf("callgrind's line %q is not a position and a count", line)
			}
			c[current] += n
		}
	}
	return c, lines.Err()
}

// name is what "(12) name" says the first time, and "(12)" from then on.
func name(names map[string]string, s string) string {
	number, text, defined := strings.Cut(s, " ")
	if defined {
		names[number], _, _ = strings.Cut(text, "'") // of a function that seems to call itself: its depth
	}
	return names[number]
}
