package store

import (
	"encoding/json"
	"testing"
)

// TestUploadEvents shows every event of uploads, with a guest and without, and that none of them tells what was read.
func TestUploadEvents(t *testing.T) {
	t.Parallel()
	u := Upload{
		ID: "u0", Org: "1", User: "maker", PropertyID: "7", Filename: `a "b".png`, MimeType: "image/png", DocumentType: "passport",
		Size: 5, Reason: "the digest is another one",
		Document: Document{
			State: "done", Text: "SECRET", Fields: json.RawMessage(`{"passportNumber":{"value":"SECRET"},"fullName":{"value":"SECRET"}}`),
			Confidence: 88, Error: "no OCR",
		},
	}
	guest, unknown := u, u
	guest.GuestID = "42"
	unknown.Size, unknown.MimeType, unknown.DocumentType = -1, "", ""
	const about = `"documentId":"u0","documentType":"passport","filename":"a \"b\".png","mimeType":"image/png","size":5,`
	for _, one := range []struct {
		draft                     Draft
		service, kind, entity, id string
		of, data                  string
	}{
		{uploadedEvent(&u, true), "documents", "document_uploaded", "document", "upload-u0-uploaded", "u0", `{"action":"add",` + about + `"status":"processing"}`},
		{uploadedEvent(&guest, false), "guest", "guest_document_uploaded", "guest_document", "upload-u0-uploaded", "42", `{"action":"add",` + about + `"status":"ready"}`},
		{extractedEvent(&u), "documents", "document_extracted", "document", "upload-u0-extracted", "u0", `{"action":"update",` + about +
			`"status":"ready","overallConfidence":88,"fieldsExtracted":2,"updatedFields":["fullName","passportNumber"]}`},
		{extractedEvent(&guest), "guest", "guest_document_extracted", "guest_document", "upload-u0-extracted", "42", `{"action":"update",` + about +
			`"status":"ready","overallConfidence":88,"fieldsExtracted":2,"updatedFields":["fullName","passportNumber"]}`},
		{extractFailedEvent(&u), "documents", "document_extract_failed", "document", "upload-u0-extract_failed", "u0", `{"action":"update",` + about +
			`"status":"failed","reason":"no OCR"}`},
		{extractFailedEvent(&guest), "guest", "guest_document_extract_failed", "guest_document", "upload-u0-extract_failed", "42", `{"action":"update",` + about +
			`"status":"failed","reason":"no OCR"}`},
		{uploadFailedEvent(&guest), "documents", "upload_failed", "document", "upload-u0-failed", "u0", `{` + about +
			`"status":"failed","reason":"the digest is another one"}`},
		{
			uploadExpiredEvent(&unknown), "documents", "upload_expired", "document", "upload-u0-expired", "u0",
			`{"documentId":"u0","filename":"a \"b\".png","status":"expired"}`,
		},
	} {
		e := one.draft
		if e.Service != one.service || e.Type != one.kind || e.EntityType != one.entity || e.EntityID != one.of || e.ID != one.id || !e.IDGiven {
			t.Errorf("%+v", e)
		}
		if e.Audience != "" {
			t.Errorf("of a property, %s is for %q alone", e.Type, e.Audience)
		}
		if e.Org != "1" || e.PropertyID != "7" || e.UserID != "maker" {
			t.Errorf("%s is told to %q of %q, by %q", e.Type, e.PropertyID, e.Org, e.UserID)
		}
		if string(e.Data) != one.data {
			t.Errorf("%s tells\n%s, not\n%s", e.Type, e.Data, one.data)
		}
	}
	u.PropertyID, guest.PropertyID = "", ""
	for _, draft := range []Draft{
		uploadedEvent(&u, false), uploadedEvent(&guest, true), extractedEvent(&u), extractFailedEvent(&guest), uploadFailedEvent(&u), uploadExpiredEvent(&u),
	} {
		if draft.Audience != "maker" {
			t.Errorf("of no property, %s is for %q", draft.Type, draft.Audience)
		}
	}
}
