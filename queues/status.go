package queues

// Status is the outcome of a verb, with the names and values of NDIS
// (ntstatus.h, ntddndis.h). As an error it can be found with errors.Is.
type Status uint32

// Statuses of the verbs.
const (
	StatusSuccess          Status = 0
	StatusPending          Status = 0x00000103
	StatusFailure          Status = 0xC0000001
	StatusInvalidParameter Status = 0xC000000D
	StatusResources        Status = 0xC000009A
	StatusNotSupported     Status = 0xC00000BB
	StatusFileNotFound     Status = 0xC001001B
)

var statusNames = map[Status]string{
	StatusSuccess:          "NDIS_STATUS_SUCCESS",
	StatusPending:          "NDIS_STATUS_PENDING",
	StatusFailure:          "NDIS_STATUS_FAILURE",
	StatusInvalidParameter: "NDIS_STATUS_INVALID_PARAMETER",
	StatusResources:        "NDIS_STATUS_RESOURCES",
	StatusNotSupported:     "NDIS_STATUS_NOT_SUPPORTED",
	StatusFileNotFound:     "NDIS_STATUS_FILE_NOT_FOUND",
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
