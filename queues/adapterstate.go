package queues

// AdapterState is where an adapter stands (NDIS, "Miniport Adapter States and
// Operations").
//
//	Halted -> Initializing -> Paused <-> Restarting, Running, Pausing
//	   ^                        |
//	   '-------- Halt ----------'            Shutdown: from all but Halted, for good
type AdapterState uint8

// States of an adapter.
const (
	AdapterHalted       AdapterState = iota // has nothing
	AdapterInitializing                     // NewAdapter is at work
	AdapterPaused                           // has its memory, takes verbs; no frame passes
	AdapterRestarting                       // Restart is at work
	AdapterRunning                          // frames pass
	AdapterPausing                          // frames that are under way end
	AdapterShutdown                         // the machine ends; nothing is freed any more
	numAdapterStates
)

var adapterStateNames = [numAdapterStates]string{"Halted", "Initializing", "Paused", "Restarting", "Running", "Pausing", "Shutdown"}

func (s AdapterState) String() string {
	if s < numAdapterStates {
		return adapterStateNames[s]
	}
	return "invalid"
}

// adapterEvent is what moves an adapter from state to state.
type adapterEvent uint8

const (
	adInitialize adapterEvent = iota
	adInitialized
	adInitFailed
	adRestart
	adRestarted
	adRestartFailed
	adPause
	adPaused
	adHalt
	adShutdown
	numAdapterEvents
)

const adNever = numAdapterStates

// adapterTransitions[e][s] is the state after e in s.
var adapterTransitions = [numAdapterEvents][numAdapterStates]AdapterState{
	//               Halted        Initializing    Paused       Restarting      Running      Pausing    Shutdown
	adInitialize:    {AdapterInitializing, adNever, adNever, adNever, adNever, adNever, adNever},
	adInitialized:   {adNever, AdapterPaused, adNever, adNever, adNever, adNever, adNever},
	adInitFailed:    {adNever, AdapterHalted, adNever, adNever, adNever, adNever, adNever},
	adRestart:       {adNever, adNever, AdapterRestarting, adNever, adNever, adNever, adNever},
	adRestarted:     {adNever, adNever, adNever, AdapterRunning, adNever, adNever, adNever},
	adRestartFailed: {adNever, adNever, adNever, AdapterPaused, adNever, adNever, adNever},
	adPause:         {adNever, adNever, adNever, adNever, AdapterPausing, adNever, adNever},
	adPaused:        {adNever, adNever, adNever, adNever, adNever, AdapterPaused, adNever},
	adHalt:          {adNever, adNever, AdapterHalted, adNever, adNever, adNever, adNever},
	adShutdown:      {adNever, adNever, AdapterShutdown, AdapterShutdown, AdapterShutdown, AdapterShutdown, adNever},
}

// next is the state after e, and whether e is valid in s.
func (s AdapterState) next(e adapterEvent) (AdapterState, bool) {
	if s >= numAdapterStates || e >= numAdapterEvents {
		return s, false
	}
	to := adapterTransitions[e][s]
	return to, to != adNever
}
