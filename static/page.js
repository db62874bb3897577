// The page of dev mode: events as they come, a form to publish one, and a hotel that plays.

const $ = (id) => document.getElementById(id);
const shown = 200; // events kept on the page

// What a hotel says of itself: service, type, entity type, and what the event carries.
const some = (list) => list[Math.floor(Math.random() * list.length)];
const number = (most) => 1 + Math.floor(Math.random() * most);
const names = ["Amrita", "Jonas", "Lucía", "Kofi", "Mei", "Ravi"];
const traffic = [
  ["finance", "expense_added", "expense", () => ({ amountCents: number(90000), currency: "EUR", category: some(["linen", "kitchen", "repairs"]) })],
  ["finance", "revenue_approved", "revenue", () => ({ amountCents: number(400000), currency: "EUR", paymentMode: some(["cash", "bank"]) })],
  ["guest", "guest_created", "guest_checkin", () => ({ guestName: some(names), room: 100 + number(40) })],
  ["guest", "guest_checked_out", "guest_checkin", () => ({ guestName: some(names), nights: number(6) })],
  ["staff", "attendance_checked_in", "attendance", () => ({ staffName: some(names) })],
  ["staff", "leave_approved", "leave", () => ({ staffName: some(names), days: number(10) })],
  ["tasks", "task_assigned", "task", () => ({ title: some(["Clean room", "Fix tap", "Welcome drink"]), priority: some(["low", "high"]) })],
  ["tasks", "task_status_updated", "task", () => ({ oldStatus: "open", newStatus: "done" })],
  ["properties", "property_updated", "property", () => ({ status: some(["open", "renovation"]) })],
  ["users", "user_login", "user", () => ({ displayName: some(names) })],
  ["branding", "theme_updated", "branding", () => ({ primaryColor: some(["#0b6bcb", "#157347"]) })],
];
const services = [...new Set(traffic.map(([service]) => service))];
const orgWide = ["branding", "users"];

const counts = new Map(services.map((service) => [service, 0]));
let total = 0;
let source;
let cursor = ""; // through which this page was served

function setState(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
}

function show(kind, event, className = "") {
  $("empty").hidden = true;
  const item = document.createElement("li");
  item.className = className;
  const part = (tag, text) => {
    const element = document.createElement(tag);
    element.textContent = text;
    item.append(element);
  };
  part("time", (event.time ?? new Date().toISOString()).slice(11, 23));
  part("b", kind);
  part("span", event.type ?? "");
  part("small", event.propertyId ? `property ${event.propertyId}` : event.type ? "whole org" : "");
  part("code", JSON.stringify(event.data ?? event));
  $("events").prepend(item);
  while ($("events").childElementCount > shown) $("events").lastChild.remove();
}

function drawCounts() {
  const most = Math.max(1, ...counts.values());
  $("counts").replaceChildren(...[...counts].map(([service, count]) => {
    const item = document.createElement("li");
    const label = document.createElement("span");
    label.textContent = service;
    const bar = document.createElement("meter");
    bar.max = most;
    bar.value = count;
    bar.setAttribute("aria-label", `events of ${service}`);
    const figure = document.createElement("span");
    figure.textContent = count;
    item.append(label, bar, figure);
    return item;
  }));
}

function reached(message) {
  if (!message.lastEventId) return; // some frames have no id
  cursor = message.lastEventId;
  $("cursor").textContent = cursor;
}

function received(message) {
  reached(message);
  const event = JSON.parse(message.data);
  total++;
  counts.set(event.service, (counts.get(event.service) ?? 0) + 1);
  $("total").textContent = total;
  $("latency").textContent = `${Math.max(0, Date.now() - Date.parse(event.time))} ms after its commit`;
  show(event.service, event);
  drawCounts();
}

// An EventSource reconnects by itself and sends the last id; nothing is lost and nothing comes twice. One that is opened
// anew, with another filter or another token, is told the position by its address.
function connect() {
  source?.close();
  const query = new URLSearchParams();
  for (const [name, value] of new FormData($("filter"))) {
    if (value) query.set(name === "service" ? "services" : name, value);
  }
  if (cursor) query.set("cursor", cursor);
  setState("connecting", "connecting");
  source = new EventSource(`/v2/realtime/stream?${query}`);
  source.onerror = () => source.readyState === EventSource.CLOSED
    ? setState("lost", "refused: reload the page for a new token")
    : setState("lost", "connection lost, coming back");
  source.addEventListener("ack", (message) => {
    reached(message);
    setState("live", "live");
  });
  source.addEventListener("ping", reached);
  for (const kind of ["reset", "reauth", "drain", "problem"]) {
    source.addEventListener(kind, (message) => {
      reached(message);
      show(kind, JSON.parse(message.data), "frame");
    });
  }
  // The page, asked for again, brings a new token in its cookie.
  source.addEventListener("reauth", () => fetch("/", { cache: "no-store" }).then(connect, () => {}));
  for (const service of services) source.addEventListener(service, received);
}

async function publish(event) {
  const response = await fetch("/v2/events", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(event),
  }).catch((error) => ({ ok: false, json: async () => ({ title: "Not reachable", detail: error.message }) }));
  const answer = await response.json();
  $("answer").className = response.ok ? "" : "bad";
  $("answer").textContent = response.ok
    ? `committed at ${answer.events[0].cursor}`
    : `${answer.title}: ${answer.field ? `${answer.field}: ` : ""}${answer.detail}`;
  return response.ok;
}

$("publish").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const event = {};
  for (const [name, value] of new FormData($("publish"))) if (value) event[name] = value;
  try {
    event.data = JSON.parse(event.data ?? "{}");
  } catch (error) {
    $("answer").className = "bad";
    $("answer").textContent = `data: ${error.message}`;
    return;
  }
  publish(event);
});

let playing;
$("play").addEventListener("click", () => {
  const on = playing === undefined;
  clearInterval(playing);
  playing = on ? setInterval(async () => {
    const [service, type, entityType, data] = some(traffic);
    const event = { service, type, entityType, entityId: String(number(500)), data: data() };
    if (!orgWide.includes(service)) event.propertyId = String(number(9));
    if (!await publish(event) && playing !== undefined) $("play").click();
  }, 350) : undefined;
  $("play").setAttribute("aria-pressed", on);
  $("play").textContent = on ? "Stop the hotel" : "Play hotel traffic";
});

$("filter").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  connect();
});
$("clear").addEventListener("click", () => {
  $("events").replaceChildren();
  $("empty").hidden = false;
});

for (const list of document.querySelectorAll("select")) {
  for (const service of services) list.append(new Option(service, service));
}
drawCounts();
connect();
