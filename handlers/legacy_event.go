package handlers

import (
	"time"

	"sluice/store"
)

// Events as the old API has them.

const oldTime = "2006-01-02T15:04:05.000000Z"

// appendFull is the whole event, as the endpoints of the services have it.
func appendFull(dst []byte, e *store.Event) []byte { return appendOld(dst, e, false) }

// appendDerived is the event of an aggregate, which has an entity always, be it null.
func appendDerived(dst []byte, e *store.Event) []byte { return appendOld(dst, e, true) }

func appendOld(dst []byte, e *store.Event, derived bool) []byte {
	dst = append(append(append(dst, `{"eventId":"`...), e.ID...), `","eventVersion":"v1","eventType":"`...)
	dst = append(append(dst, e.Type...), '"')
	dst = appendOldID(dst, "orgId", e.Org, false)
	dst = appendOldID(dst, "propertyId", e.PropertyID, e.Service == "branding")
	dst = appendOldID(dst, "userId", e.UserID, false)
	dst = appendOldTime(append(dst, `,"timestamp":`...), e.Time)
	dst = appendOldID(dst, "entityId", e.EntityID, derived)
	if e.EntityType != "" {
		dst = appendString(append(dst, `,"entityType":`...), e.EntityType)
	}
	return append(append(append(dst, `,"metadata":`...), e.Data...), '}')
}

// appendBrief is what the guest endpoints tell of an event.
func appendBrief(dst []byte, e *store.Event) []byte {
	dst = append(append(append(dst, `{"eventType":"`...), e.Type...), '"')
	dst = appendOldTime(append(dst, `,"timestamp":`...), e.Time)
	dst = appendOldID(dst, "entityId", e.EntityID, false)
	if e.EntityType != "" {
		dst = appendString(append(dst, `,"entityType":`...), e.EntityType)
	}
	return append(append(append(dst, `,"metadata":`...), e.Data...), '}')
}

// appendOldID appends a field with an id: a number where it is one that JavaScript keeps, else a string. One that is not
// there is left out, or null.
func appendOldID(dst []byte, name, id string, null bool) []byte {
	if id == "" && !null {
		return dst
	}
	if last := len(dst) - 1; dst[last] != '{' {
		dst = append(dst, ',')
	}
	dst = append(append(append(dst, '"'), name...), `":`...)
	switch {
	case id == "":
		return append(dst, "null"...)
	case safeInteger(id):
		return append(dst, id...)
	}
	return appendString(dst, id)
}

// safeInteger says whether a text is a decimal number without a leading zero, up to 2^53−1.
func safeInteger(id string) bool {
	const most = "9007199254740991"
	if len(id) > len(most) || id[0] == '0' && len(id) > 1 {
		return false
	}
	for i := range len(id) {
		if id[i] < '0' || id[i] > '9' {
			return false
		}
	}
	return len(id) < len(most) || id <= most
}

// appendOldTime quotes a time as the old API has it: unique within an org, for it is a position too.
func appendOldTime(dst []byte, at time.Time) []byte {
	return append(at.UTC().AppendFormat(append(dst, '"'), oldTime), '"')
}
