package virtqueue_test

import "slices"

// shrink makes a program on which the devices differ as small as it can:
// first without steps that are not needed, then with smaller operands and a
// plainer ring. fails says whether they still differ. It is called at most
// limit times.
func shrink(p diffProgram, limit int, fails func(*diffProgram) bool) diffProgram {
	s := shrinker{best: p, left: limit, fails: fails}
	s.best.steps = slices.Clone(p.steps)
	for before := -1; before != s.left && s.left > 0; {
		before = s.left
		progress := s.steps()
		progress = s.operands() || progress
		progress = s.shape() || progress
		if !progress {
			break
		}
	}
	return s.best
}

type shrinker struct {
	best  diffProgram
	left  int
	fails func(*diffProgram) bool
}

// try keeps p if it still fails.
func (s *shrinker) try(p diffProgram) bool {
	if s.left--; s.left < 0 || !s.fails(&p) {
		return false
	}
	s.best = p
	return true
}

// steps leaves out runs of steps, long ones first.
func (s *shrinker) steps() (progress bool) {
	for n := len(s.best.steps); n > 0; n /= 2 {
		for from := 0; from+n <= len(s.best.steps); {
			p := s.best
			p.steps = slices.Delete(slices.Clone(p.steps), from, from+n)
			if s.try(p) {
				progress = true
			} else {
				from += n
			}
		}
	}
	return progress
}

// operands makes numbers smaller: 0, then without one bit after the other,
// the highest first.
func (s *shrinker) operands() (progress bool) {
	for i := range s.best.steps {
		for _, operand := range []func(*diffStep) *uint32{
			func(d *diffStep) *uint32 { return &d.a },
			func(d *diffStep) *uint32 { return &d.b },
		} {
			progress = s.operand(i, operand) || progress
		}
	}
	return progress
}

func (s *shrinker) operand(i int, operand func(*diffStep) *uint32) (progress bool) {
	with := func(v uint32) bool {
		p := s.best
		p.steps = slices.Clone(p.steps)
		*operand(&p.steps[i]) = v
		return s.try(p)
	}
	if v := *operand(&s.best.steps[i]); v == 0 || with(0) {
		return v != 0
	}
	for bit := uint32(1 << 31); bit > 0; bit >>= 1 {
		if v := *operand(&s.best.steps[i]); v&bit != 0 {
			progress = with(v&^bit) || progress
		}
	}
	return progress
}

// shape turns off what is not needed.
func (s *shrinker) shape() (progress bool) {
	for _, plainer := range []func(*ringShape){
		func(r *ringShape) { r.indirect = false },
		func(r *ringShape) { r.event = false },
		func(r *ringShape) { r.shift = false },
		func(r *ringShape) { r.onEmpty = false },
		func(r *ringShape) { r.maxBytes = 0 },
		func(r *ringShape) { r.start = 0 },
		func(r *ringShape) { r.size /= 2 },
		func(r *ringShape) { r.maxChain = diffMaxSize },
	} {
		p := s.best
		if plainer(&p.shape); p.shape != s.best.shape && p.shape.size > 0 {
			progress = s.try(p) || progress
		}
	}
	return progress
}
