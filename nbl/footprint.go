package nbl

import "reflect"

// Sizes of what a pool is made of, bytes.
var (
	listSize = uint64(reflect.TypeFor[List]().Size() + reflect.TypeFor[*List]().Size())
	moreSize = uint64(reflect.TypeFor[more]().Size())
)

// Footprint is how many bytes of this process's memory the Pool takes, without
// what PoolParameters.Memory has allocated for it. It never changes.
func (p *Pool) Footprint() uint64 {
	each := listSize
	if p.params.Size > 0 { // of NewPoolWith
		each += moreSize + uint64(p.params.ContextSize)
	}
	return uint64(len(p.all)) * each
}
