package queues

import (
	"errors"
	"fmt"
)

// Status is the outcome of a verb, with the names and values of NDIS
// (ntstatus.h, ntddndis.h). As an error it can be found with errors.Is.
type Status uint32

// Statuses of the verbs.
const (
	StatusSuccess          Status = 0
	StatusPending          Status = 0x00000103 // the verb waits: for workers, for packets that are held
	StatusNotAccepted      Status = 0x00010003 // the adapter is gone (surprise removal)
	StatusFailure          Status = 0xC0000001
	StatusInvalidParameter Status = 0xC000000D // or an event that is invalid in the queue's state
	StatusResources        Status = 0xC000009A
	StatusNotSupported     Status = 0xC00000BB
	StatusRequestAborted   Status = 0xC001000C // a reset ended the verb; it may be asked for again
	StatusResetInProgress  Status = 0xC001000D
	StatusAdapterNotReady  Status = 0xC0010011 // halted, or not initialized yet
	StatusInvalidLength    Status = 0xC0010014 // see LengthError
	StatusBufferTooShort   Status = 0xC0010016
	StatusFileNotFound     Status = 0xC001001B // no such filter
	StatusSendAborted      Status = 0xC023000C
	StatusPaused           Status = 0xC023002A
)

var statusNames = map[Status]string{
	StatusSuccess:          "NDIS_STATUS_SUCCESS",
	StatusPending:          "NDIS_STATUS_PENDING",
	StatusNotAccepted:      "NDIS_STATUS_NOT_ACCEPTED",
	StatusFailure:          "NDIS_STATUS_FAILURE",
	StatusInvalidParameter: "NDIS_STATUS_INVALID_PARAMETER",
	StatusResources:        "NDIS_STATUS_RESOURCES",
	StatusNotSupported:     "NDIS_STATUS_NOT_SUPPORTED",
	StatusRequestAborted:   "NDIS_STATUS_REQUEST_ABORTED",
	StatusResetInProgress:  "NDIS_STATUS_RESET_IN_PROGRESS",
	StatusAdapterNotReady:  "NDIS_STATUS_ADAPTER_NOT_READY",
	StatusInvalidLength:    "NDIS_STATUS_INVALID_LENGTH",
	StatusBufferTooShort:   "NDIS_STATUS_BUFFER_TOO_SHORT",
	StatusFileNotFound:     "NDIS_STATUS_FILE_NOT_FOUND",
	StatusSendAborted:      "NDIS_STATUS_SEND_ABORTED",
	StatusPaused:           "NDIS_STATUS_PAUSED",
}

// String is the status's name in NDIS.
func (s Status) String() string {
	if name, ok := statusNames[s]; ok {
		return name
	}
	return "NDIS_STATUS_UNKNOWN"
}

// Error makes a Status an error.
func (s Status) Error() string { return s.String() }

// StatusOf is the status that an error of a verb carries: StatusSuccess for
// nil, StatusFailure for one that says nothing else.
func StatusOf(err error) Status {
	if err == nil {
		return StatusSuccess
	}
	if s, ok := errors.AsType[Status](err); ok {
		return s
	}
	return StatusFailure
}

// LengthError is the answer of an enumeration to an array that is too short:
// StatusInvalidLength with what NDIS calls BytesNeeded. The array is a slice
// here, so it counts elements.
type LengthError struct {
	Verb         string
	Needed, Have int // elements
}

func (e *LengthError) Error() string {
	return fmt.Sprintf("queues: %s: room for %d elements, %d are needed: %s", e.Verb, e.Have, e.Needed, StatusInvalidLength)
}

// Unwrap is StatusInvalidLength.
func (e *LengthError) Unwrap() error { return StatusInvalidLength }
