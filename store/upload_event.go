package store

import (
	"encoding/json"
	"maps"
	"slices"
)

// The service that tells of uploads without a guest, and of all those that did not arrive; the catalogue keeps it to the
// server.
const documentsService = "documents"

// uploadNews is the data of the events that tell of uploads. Its names are those of the old guest events, whose clients read
// them as metadata. What OCR has read is never among it: every holder of the property would find it in the log for as long as
// events are kept.
type uploadNews struct {
	Action       string `json:"action,omitempty"` // add, update
	DocumentID   string `json:"documentId"`       // the upload's id
	DocumentType string `json:"documentType,omitempty"`
	Filename     string `json:"filename"`
	MimeType     string `json:"mimeType,omitempty"`
	Size         *int64 `json:"size,omitempty"` // bytes; absent where it never was known
	Status       string `json:"status"`         // processing, ready, failed, expired
	Reason       string `json:"reason,omitempty"`

	// Of what was read: how sure it is, from 0 to 100, and which fields were found.
	OverallConfidence *float64 `json:"overallConfidence,omitempty"`
	FieldsExtracted   *int     `json:"fieldsExtracted,omitempty"`
	UpdatedFields     []string `json:"updatedFields,omitempty"`
}

// uploadedEvent says that an upload is ready; with read, that what it says is being found out.
func uploadedEvent(u *Upload, read bool) Draft {
	news := newsOf(u, "add", "ready")
	if read {
		news.Status = "processing"
	}
	return documentEvent(u, "uploaded", news)
}

// extractedEvent says that an upload was read. Of what was read it has the names of the fields alone.
func extractedEvent(u *Upload) Draft {
	news := newsOf(u, "update", "ready")
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(u.Document.Fields, &fields) // the column is of JSON, and an object
	count := len(fields)
	news.OverallConfidence, news.FieldsExtracted = &u.Document.Confidence, &count
	news.UpdatedFields = slices.Sorted(maps.Keys(fields))
	return documentEvent(u, "extracted", news)
}

// extractFailedEvent says that an upload cannot be read. It is ready all the same.
func extractFailedEvent(u *Upload) Draft {
	news := newsOf(u, "update", "failed")
	news.Reason = u.Document.Error
	return documentEvent(u, "extract_failed", news)
}

// uploadFailedEvent says that an upload was whole but not what it should be.
func uploadFailedEvent(u *Upload) Draft {
	news := newsOf(u, "", "failed")
	news.Reason = u.Reason
	return uploadEvent(u, "upload_failed", "failed", news)
}

// uploadExpiredEvent says that nobody has gone on with an upload.
func uploadExpiredEvent(u *Upload) Draft {
	return uploadEvent(u, "upload_expired", "expired", newsOf(u, "", "expired"))
}

func newsOf(u *Upload, action, status string) uploadNews {
	news := uploadNews{
		Action: action, DocumentID: u.ID, DocumentType: u.DocumentType, Filename: u.Filename, MimeType: u.MimeType, Status: status,
	}
	if u.Size >= 0 {
		news.Size = &u.Size
	}
	return news
}

// documentEvent tells of an upload that has arrived: as the guest's, where it has one.
func documentEvent(u *Upload, what string, news uploadNews) Draft {
	draft := uploadEvent(u, "document_"+what, what, news)
	if u.GuestID != "" {
		draft.Service, draft.Type = "guest", "guest_document_"+what
		draft.EntityType, draft.EntityID = "guest_document", u.GuestID
	}
	return draft
}

// uploadEvent makes an event whose id derives from what it tells, so that the log takes it once.
func uploadEvent(u *Upload, kind, what string, news uploadNews) Draft {
	data, err := json.Marshal(news)
	if err != nil {
		panic(err) // texts and numbers
	}
	draft := Draft{IDGiven: true, Event: Event{
		Org: u.Org, ID: "upload-" + u.ID + "-" + what, Service: documentsService, Type: kind, PropertyID: u.PropertyID,
		EntityType: "document", EntityID: u.ID, UserID: u.User, Data: data,
	}}
	if u.PropertyID == "" { // it would concern the whole org
		draft.Audience = u.User
	}
	return draft
}
