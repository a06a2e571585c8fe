package queues

// State is where a queue stands between ALLOCATE_QUEUE and the end of
// FREE_QUEUE (NDIS, "Virtual Machine Queue States").
//
//	                ALLOCATE           SET_FILTER
//	   Undefined ------------> Allocated --------> Set
//	       ^                       |  ^  <--------  |
//	       |                       |  |  last CLEAR |
//	       |            COMPLETE   |  |             | COMPLETE
//	       |               .-------'  |             |
//	       |               v          |             v
//	       |            Paused -----SET_FILTER--> Running
//	       |               |   <----last CLEAR---
//	memory |          FREE |  (and from Allocated)
//	freed  |               v
//	   Freeing <--------- StopDMA
//	            DMA has stopped, status indicated
type State uint8

// States of a queue.
const (
	Undefined State = iota
	Allocated       // has an id; no memory, no filter
	Set             // has filters, no memory yet
	Running         // has memory and filters: frames are indicated
	Paused          // has memory and no filter: nothing is indicated
	StopDMA         // FREE_QUEUE came: writers are leaving
	Freeing         // nobody writes any more; NBLs are on their way back
	numStates
)

var stateNames = [numStates]string{"Undefined", "Allocated", "Set", "Running", "Paused", "StopDMA", "Freeing"}

func (s State) String() string {
	if s < numStates {
		return stateNames[s]
	}
	return "invalid"
}

// Operational is the state as enumerations and indications tell it, which know
// fewer (NDIS_RECEIVE_QUEUE_OPERATIONAL_STATE): a queue without memory counts as
// paused, one on its way out as stopped.
func (s State) Operational() OperationalState {
	switch s {
	case Running:
		return OperationalRunning
	case Allocated, Set, Paused:
		return OperationalPaused
	case StopDMA, Freeing:
		return OperationalDMAStopped
	default:
		return OperationalUndefined
	}
}

// OperationalState is what NDIS tells of a queue's state.
type OperationalState uint8

// Operational states, with the values of NDIS.
const (
	OperationalUndefined OperationalState = iota
	OperationalRunning
	OperationalPaused
	OperationalDMAStopped
)

// String is the state in a word.
func (s OperationalState) String() string {
	switch s {
	case OperationalRunning:
		return "running"
	case OperationalPaused:
		return "paused"
	case OperationalDMAStopped:
		return "dma-stopped"
	default:
		return "undefined"
	}
}

// event is what moves a queue from state to state.
type event uint8

const (
	evAllocate     event = iota
	evParameters         // QUEUE_PARAMETERS, read or set
	evSetFilter          // SET_FILTER
	evClearLast          // CLEAR_FILTER of the last filter
	evClearNotLast       // CLEAR_FILTER of another one
	evEnumFilters        // ENUM_FILTERS
	evFilterInfo         // RECEIVE_FILTER_PARAMETERS, of one filter
	evComplete           // QUEUE_ALLOCATION_COMPLETE
	evFree               // FREE_QUEUE
	evDMAStopped         // writers have left and the status was indicated
	evFreed              // all NBLs are back and the memory is freed
	numEvents
)

// never marks an event that is invalid in a state.
const never = numStates

// transitions[e][s] is the state after e in s.
var transitions = [numEvents][numStates]State{
	//               Undefined  Allocated  Set        Running  Paused   StopDMA  Freeing
	evAllocate:     {Allocated, never, never, never, never, never, never},
	evParameters:   {never, Allocated, Set, Running, Paused, never, never},
	evSetFilter:    {never, Set, Set, Running, Running, never, never},
	evClearLast:    {never, never, Allocated, Paused, never, never, never},
	evClearNotLast: {never, never, Set, Running, never, never, never},
	evEnumFilters:  {never, Allocated, Set, Running, Paused, never, never},
	evFilterInfo:   {never, never, Set, Running, never, never, never},
	evComplete:     {never, Paused, Running, never, never, never, never},
	evFree:         {never, StopDMA, never, never, StopDMA, never, never},
	evDMAStopped:   {never, never, never, never, never, Freeing, never},
	evFreed:        {never, never, never, never, never, never, Undefined},
}

// next is the state after e, and whether e is valid in s.
func (s State) next(e event) (State, bool) {
	if s >= numStates || e >= numEvents {
		return s, false
	}
	to := transitions[e][s]
	return to, to != never
}
