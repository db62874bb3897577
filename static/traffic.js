// A small hotel group at work: plausible events of all source services, for whoever wants to see the stream move.

const properties = [
  { id: "1", name: "Harbour House" },
  { id: "2", name: "Alpine Lodge" },
  { id: "3", name: "Old Mill Inn" },
];
const people = ["Ada Ruiz", "Jonas Weber", "Mina Okafor", "Tomás Silva", "Lea Novak", "Sam Whitfield"];
const jobs = ["Replace the lamp in 204", "Restock the minibar", "Check the pool pump", "Prepare the banquet hall"];
const causes = ["laundry", "flowers", "plumber", "kitchen supplies"];

const any = (list) => list[Math.floor(Math.random() * list.length)];
const between = (low, high) => low + Math.floor(Math.random() * (high - low + 1));
const cents = () => between(900, 48000);

/**
 * What each service tells. The types stand in the order of their weight in a day; each has a maker of its data.
 * @type {Record<string, Record<string, (property: {id: string, name: string}) => object>>}
 */
export const stories = {
  finance: {
    expense_added: () => ({ amountCents: cents(), currency: "EUR", category: any(causes), paymentMode: any(["cash", "bank"]) }),
    revenue_added: () => ({ amountCents: cents() * 3, currency: "EUR", source: any(["rooms", "bar", "spa"]) }),
    expense_approved: () => ({ previousStatus: "pending", newStatus: "approved", amountCents: cents() }),
    revenue_approved: () => ({ previousStatus: "pending", newStatus: "approved", amountCents: cents() * 3 }),
    cash_balance_updated: () => ({ balanceCents: cents() * 20, currency: "EUR" }),
  },
  guest: {
    guest_created: () => ({ guestName: any(people), room: between(101, 312), nights: between(1, 7) }),
    guest_updated: () => ({ guestName: any(people), updatedFields: [any(["email", "arrival", "room"])] }),
    guest_checked_out: () => ({ guestName: any(people), room: between(101, 312) }),
    guest_document_uploaded: () => ({ documentType: "passport", status: "processing" }),
  },
  staff: {
    schedule_created: () => ({ staffName: any(people), shift: any(["early", "late", "night"]) }),
    attendance_checked_in: () => ({ staffName: any(people) }),
    leave_requested: () => ({ staffName: any(people), days: between(1, 10) }),
    leave_approved: () => ({ staffName: any(people), days: between(1, 10) }),
  },
  tasks: {
    task_created: () => ({ title: any(jobs), priority: any(["low", "normal", "high"]) }),
    task_assigned: () => ({ title: any(jobs), assignee: any(people) }),
    task_status_updated: () => ({ title: any(jobs), oldStatus: "open", newStatus: any(["started", "done"]) }),
  },
  properties: {
    property_updated: (property) => ({ name: property.name, status: any(["open", "renovating"]) }),
  },
  users: {
    user_login: () => ({ displayName: any(people), userAgent: any(["Firefox", "Safari", "Chrome"]) }),
    user_updated: () => ({ displayName: any(people), updatedFields: ["role"] }),
  },
  branding: {
    theme_updated: () => ({ primary: any(["#0b6e8f", "#1f9d61", "#a8882a"]), font: any(["Inter", "Lora"]) }),
  },
};

// How often each service speaks: money and guests all day, a new theme rarely.
const weights = { finance: 6, guest: 5, tasks: 5, staff: 3, users: 2, properties: 1, branding: 1 };
const lots = Object.entries(weights).flatMap(([service, weight]) => Array(weight).fill(service));

// What concerns the whole org carries no property.
const orgWide = new Set(["users", "branding"]);

/** Makes one event as POST /v2/events takes it. A service may be given, else chance decides. */
export function happening(service = any(lots)) {
  const property = any(properties);
  const type = any(Object.keys(stories[service]));
  const event = {
    service, type, entityType: type.split("_")[0], entityId: String(between(1000, 9999)), userId: "demo",
    data: stories[service][type](property),
  };
  if (!orgWide.has(service)) event.propertyId = property.id;
  return event;
}
