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
const sample = (service) => some(traffic.filter(([of]) => of === service));

const counts = new Map(services.map((service) => [service, 0]));
let total = 0;
let resets = 0;
let source;
let again; // timer of the next try after a refusal
let cursor = ""; // through which this page was served

function setState(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
}

// What came is drawn once a frame of the screen, so that a long replay does not redraw the page for each event.
let waiting = [];
let drawn = false;

function show(item) {
  waiting.push(item);
  if (waiting.length > 2 * shown) waiting = waiting.slice(-shown);
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(draw);
}

function draw() {
  drawn = false;
  $("events").prepend(...waiting.slice(-shown).reverse().map(row));
  waiting = [];
  while ($("events").childElementCount > shown) $("events").lastChild.remove();
  $("empty").hidden = $("events").childElementCount > 0;
  $("cursor").textContent = cursor || "–";
  $("total").textContent = total;
  $("resets").textContent = resets;
  drawCounts();
}

function row({ kind, what = "", where = "", text, at, position = "", className = "" }) {
  const item = document.createElement("li");
  item.className = className;
  const part = (tag, content) => {
    const element = document.createElement(tag);
    element.textContent = content;
    item.append(element);
    return element;
  };
  const time = part("time", `${at.toTimeString().slice(0, 8)}.${String(at.getMilliseconds()).padStart(3, "0")}`);
  time.dateTime = at.toISOString();
  part("b", kind);
  part("span", what);
  part("small", where);
  part("small", position).className = "position";
  part("code", text);
  return item;
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
    bar.setAttribute("aria-hidden", "true"); // the figure says the same
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
  const at = new Date(event.time);
  const late = Math.max(0, Date.now() - at);
  total++;
  counts.set(event.service, (counts.get(event.service) ?? 0) + 1);
  $("latency").textContent = late < 10000 ? `${late} ms after its commit` : "replayed";
  show({
    kind: event.service, what: event.type, at, position: event.cursor, text: JSON.stringify(event.data),
    where: [event.propertyId ? `property ${event.propertyId}` : "whole org", event.entityType, event.entityId].filter(Boolean).join(" "),
  });
}

// What the server says of the stream itself.
function told(kind, message) {
  reached(message);
  const frame = JSON.parse(message.data);
  const text = {
    reset: () => `(${frame.reason}) what lies before ${frame.latest} cannot be replayed from where this page was; it goes on from there`,
    reauth: () => "the token is about to end; a new one is asked for",
    drain: () => `this instance goes away; coming back in ${frame.retryMs} ms`,
    problem: () => `${frame.status} ${frame.title}: ${frame.detail}`,
  }[kind]();
  if (kind === "reset") resets++;
  show({ kind, text, at: new Date(), position: message.lastEventId, className: "frame" });
}

// The page, asked for again, brings a new token in its cookie.
const renew = () => fetch("/", { cache: "no-store" }).then(connect, connect);

// An EventSource reconnects by itself and sends the last id; nothing is lost and nothing comes twice. One that is opened
// anew, with another filter or another token, is told the position by its address.
function connect() {
  source?.close();
  clearTimeout(again);
  const query = new URLSearchParams();
  for (const [name, value] of new FormData($("filter"))) {
    if (value) query.set(name === "service" ? "services" : name, value);
  }
  if (cursor) query.set("cursor", cursor);
  setState("connecting", "connecting");
  source = new EventSource(`/v2/realtime/stream?${query}`);
  source.onerror = () => {
    setState("lost", "connection lost, coming back");
    if (source.readyState !== EventSource.CLOSED) return;
    // It gives up for ever on a refusal, most often of a token whose secret is gone.
    setState("lost", "refused, trying again with a new token");
    clearTimeout(again);
    again = setTimeout(renew, 3000);
  };
  source.addEventListener("ack", (message) => {
    reached(message);
    setState("live", "live");
  });
  source.addEventListener("ping", reached);
  for (const kind of ["reset", "reauth", "drain", "problem"]) {
    source.addEventListener(kind, (message) => told(kind, message));
  }
  source.addEventListener("reauth", renew);
  for (const service of services) source.addEventListener(service, received);
}

function answer(text, bad) {
  $("answer").className = bad ? "bad" : "";
  $("answer").textContent = text;
}

// publish gives the status, 0 where nobody answered, and the text that says how it went.
async function publish(event) {
  try {
    const response = await fetch("/v2/events", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(event),
    });
    const body = await response.json();
    return {
      status: response.status,
      text: response.ok
        ? `Committed at ${body.events[0].cursor}.`
        : `${body.title}: ${body.field ? `${body.field}: ` : ""}${body.detail}`,
    };
  } catch (error) {
    return { status: 0, text: `The server does not answer: ${error.message}` };
  }
}

const form = $("publish").elements;
let filled = {};

// fill puts an example of the service into the form, and leaves alone what was typed there.
function fill() {
  const [, type, entityType, data] = sample(form.service.value);
  for (const [name, value] of Object.entries({ type, entityType, data: JSON.stringify(data(), null, 1).replace(/\n */g, " ") })) {
    if (form[name].value === (filled[name] ?? "")) form[name].value = filled[name] = value;
  }
}

$("publish").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const event = {};
  for (const [name, value] of new FormData($("publish"))) if (value.trim()) event[name] = value;
  try {
    event.data = JSON.parse(event.data ?? "{}");
  } catch (error) {
    answer(`Data is not JSON: ${error.message}`, true);
    form.data.focus();
    return;
  }
  const { status, text } = await publish(event);
  answer(text, status !== 201);
});

// The hotel has ids of its own, so that what was not answered is published again without harm.
let playing = false;

async function play() {
  for (let turn = 0; playing; turn++) {
    const [service, type, entityType, data] = sample(services[turn % services.length]);
    const event = { id: crypto.randomUUID(), service, type, entityType, entityId: String(number(500)), data: data() };
    if (!orgWide.includes(service)) event.propertyId = String(number(9));
    for (let taken = false; playing && !taken;) {
      const { status, text } = await publish(event);
      taken = status === 201;
      if (!playing) return; // stopped meanwhile
      if (taken && $("answer").className) answer("The hotel plays on.");
      if (!taken) answer(text, true);
      if (!taken && status !== 0 && status !== 503) return setPlaying(false);
      await new Promise((resolve) => setTimeout(resolve, taken ? 350 : 1000));
    }
  }
}

function setPlaying(on) {
  playing = on;
  $("play").classList.toggle("on", on);
  $("play").textContent = on ? "Stop the hotel" : "Play hotel traffic";
}

let round = Promise.resolve(); // one hotel at a time, however fast the button is pressed
$("play").addEventListener("click", () => {
  setPlaying(!playing);
  answer(playing ? "The hotel plays." : "The hotel has stopped.");
  if (!playing) return;
  round = round.then(play);
});

function clear() {
  waiting = [];
  $("events").replaceChildren();
  draw();
}

$("filter").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  clear();
  connect();
});
$("replay").addEventListener("click", () => {
  cursor = "earliest";
  total = 0; // all of it comes again
  for (const service of counts.keys()) counts.set(service, 0);
  clear();
  connect();
});
$("clear").addEventListener("click", clear);

for (const list of document.querySelectorAll("select")) {
  for (const service of services) list.append(new Option(service, service));
}
form.service.addEventListener("change", fill);
fill();
drawCounts();
connect();
