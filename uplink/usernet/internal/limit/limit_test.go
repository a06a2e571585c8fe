package limit

import (
	"testing"
	"time"
)

var start = time.Unix(1_000_000, 0)

func count(r *Rate[string], at time.Time, key string, tries int) (allowed int) {
	for range tries {
		if r.Allow(at, key) {
			allowed++
		}
	}
	return allowed
}

func TestRate(t *testing.T) {
	r, err := NewRate[string](10, 5, 2)
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		after time.Duration
		key   string
		want  int
	}{
		{0, "a", 5},                      // the burst
		{0, "a", 0},                      // and no more
		{0, "b", 5},                      // others have theirs
		{99 * time.Millisecond, "a", 0},  // not yet
		{100 * time.Millisecond, "a", 1}, // a tenth of a second is one
		{250 * time.Millisecond, "a", 1}, // a half is kept
		{300 * time.Millisecond, "a", 1},
		{time.Hour, "a", 5}, // never more than the burst
		{0, "a", 0},         // a clock that goes back gives nothing
	} {
		if got := count(r, start.Add(step.after), step.key, 20); got != step.want {
			t.Errorf("step %d: %d allowed, want %d", i, got, step.want)
		}
	}
}

// Who invents keys shares one bucket with all others that do; those that were
// there before keep theirs.
func TestRateKeys(t *testing.T) {
	r, err := NewRate[string](1, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	count(r, start, "a", 1)
	count(r, start, "b", 1)
	sum := 0
	for _, key := range []string{"c", "d", "e", "f"} {
		sum += count(r, start, key, 3)
	}
	if sum != 2 {
		t.Errorf("%d allowed to keys without room, want one burst of 2", sum)
	}
	if got := count(r, start, "a", 3); got != 1 {
		t.Errorf("%d allowed to the first key, want what it had left, 1", got)
	}
	later := start.Add(time.Minute)
	if got := count(r, later, "g", 3); got != 2 || len(r.buckets) != 1 {
		t.Errorf("after a rest %d allowed and %d buckets; want 2, and idle keys forgotten", got, len(r.buckets))
	}
}

func TestSlots(t *testing.T) {
	s, err := NewSlots[string](2, 3)
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		key  string
		want bool
	}{{"a", true}, {"a", true}, {"a", false}, {"b", true}, {"b", false}, {"c", false}} {
		if got := s.Take(step.key); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	s.Give("a")
	if !s.Take("c") || s.InUse() != 3 {
		t.Errorf("a slot that was given back is not free: %d in use", s.InUse())
	}
	for _, key := range []string{"a", "b", "c"} {
		s.Give(key)
	}
	if s.InUse() != 0 || len(s.taken) != 0 {
		t.Errorf("%d slots and %d keys left", s.InUse(), len(s.taken))
	}
	defer func() {
		if recover() == nil {
			t.Error("a slot that nobody took was given back")
		}
	}()
	s.Give("a")
}

func TestEdge(t *testing.T) {
	var e Edge
	for i, step := range []struct {
		after time.Duration
		on    bool
		want  bool
	}{
		{0, false, false},
		{time.Second, true, true},
		{2 * time.Second, true, false},
		{3 * time.Second, false, false}, // kept back
		{4 * time.Second, true, false},
		{62 * time.Second, true, false}, // as was told
		{63 * time.Second, false, true},
		{64 * time.Second, true, false},
		{200 * time.Second, true, true}, // told late
	} {
		if got := e.Set(start.Add(step.after), step.on); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	if _, err := NewRate[int](0, 1, 1); err == nil {
		t.Error("a rate of 0")
	}
	if _, err := NewRate[int](1, 1, 0); err == nil {
		t.Error("a rate with 0 keys")
	}
	if _, err := NewSlots[int](1, 0); err == nil {
		t.Error("0 slots in all")
	}
}
