// Package limit keeps what one guest asks of the user-mode network's services
// apart from what the others ask: how often (Rate), how much at once (Slots),
// and how often the log hears of it (Edge).
package limit
