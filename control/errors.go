package control

import (
	"errors"
	"fmt"
	"net/http"
)

// Names of the statuses that this package gives by itself; a verb's are those
// of its implementation.
const (
	StatusSuccess          = "NDIS_STATUS_SUCCESS"
	StatusPending          = "NDIS_STATUS_PENDING"
	StatusFailure          = "NDIS_STATUS_FAILURE"
	StatusInvalidParameter = "NDIS_STATUS_INVALID_PARAMETER"
	StatusInvalidLength    = "NDIS_STATUS_INVALID_LENGTH"
	StatusNotSupported     = "NDIS_STATUS_NOT_SUPPORTED"
	StatusNotAccepted      = "NDIS_STATUS_NOT_ACCEPTED"
	StatusResources        = "NDIS_STATUS_RESOURCES"
	StatusFileNotFound     = "NDIS_STATUS_FILE_NOT_FOUND"
)

// Error is the answer to a request that was not done, and the error of a
// Client's call.
type Error struct {
	Status  string `json:"status"` // of NDIS, by name
	Message string `json:"error"`  // one sentence
	// Needed is, with NDIS_STATUS_INVALID_LENGTH, how much would have been right:
	// elements of a list for which there was too little room (NDIS: BytesNeeded),
	// or the bytes that a request may have.
	Needed int `json:"needed,omitempty"`
	// Code is the answer's HTTP status; 0: by Status.
	Code int `json:"-"`
}

func (e *Error) Error() string { return e.Message + " (" + e.Status + ")" }

// Errorf is an Error with a status and a sentence.
func Errorf(status, format string, args ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, args...)}
}

// codes are the HTTP statuses of those of NDIS that are not the request's
// fault.
var codes = map[string]int{
	StatusPending:                   http.StatusAccepted,
	StatusFailure:                   http.StatusInternalServerError,
	StatusFileNotFound:              http.StatusNotFound,
	StatusNotAccepted:               http.StatusForbidden,
	StatusNotSupported:              http.StatusNotImplemented,
	StatusResources:                 http.StatusConflict,
	"NDIS_STATUS_RESET_IN_PROGRESS": http.StatusServiceUnavailable,
	"NDIS_STATUS_REQUEST_ABORTED":   http.StatusServiceUnavailable,
	"NDIS_STATUS_ADAPTER_NOT_READY": http.StatusServiceUnavailable,
	"NDIS_STATUS_PAUSED":            http.StatusServiceUnavailable,
}

// code is the HTTP status of e.
func (e *Error) code() int {
	if e.Code != 0 {
		return e.Code
	}
	if code, ok := codes[e.Status]; ok {
		return code
	}
	return http.StatusBadRequest
}

// asError is err as an Error: one that says no status is a failure.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Status: StatusFailure, Message: err.Error()}
}
