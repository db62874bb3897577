// The page of dev mode: one EventSource, a form that publishes, and a hotel that never sleeps.

import { happening, stories } from "./traffic.js";

const rowsKept = 200; // older rows leave the page; the log keeps them
const pause = [350, 1100]; // milliseconds between two happenings: a rate that can be read

const $ = (id) => document.getElementById(id);
const services = Object.keys(stories);
const pressed = new Set(); // services to see; empty: all
const counts = new Map(services.map((name) => [name, 0]));

let source = null;
let cursor = ""; // through which this page was served
let total = 0;

// --- the stream

/** Opens the stream at the cursor that the page has reached, so that another filter misses and repeats nothing. */
function connect() {
  source?.close();
  const query = new URLSearchParams();
  if (pressed.size) query.set("services", [...pressed].join(","));
  const property = $("only").value.trim();
  if (property) query.set("propertyId", property);
  if (cursor) query.set("cursor", cursor);
  show("connecting", "connecting");
  const opened = new EventSource(`/v2/realtime/stream${query.size ? `?${query}` : ""}`);
  source = opened;

  for (const name of services) opened.addEventListener(name, (frame) => received(frame));
  on(opened, "ack", (ack) => show("live", `live, ${ack.services.length} services`));
  on(opened, "ping", () => show("live", "live"));
  on(opened, "reset", (reset) => note("reset", `${reset.reason}: what was asked for cannot be replayed; following on from ${reset.latest}`));
  on(opened, "drain", () => note("drain", "the instance is going away; the browser comes back with its cursor"));
  on(opened, "problem", (problem) => note("problem", `${problem.status} ${problem.title}: ${problem.detail ?? ""}`));
  // Loading the page again renews its cookie; the stream is opened anew with it.
  on(opened, "reauth", async () => {
    await fetch("/", { cache: "no-store" });
    if (source === opened) connect();
  });
  opened.onerror = () => {
    // The browser tries again by itself, unless it was answered something other than 200.
    if (opened.readyState === EventSource.CLOSED) disconnect("refused: reload the page");
    else show("connecting", "reconnecting");
  };
  $("link").textContent = "Disconnect";
}

/** Listens to one kind of frame; a frame with an id moves the cursor. */
function on(stream, kind, act) {
  stream.addEventListener(kind, (frame) => {
    reached(frame);
    act(JSON.parse(frame.data));
  });
}

function disconnect(why) {
  source?.close();
  source = null;
  show("closed", why);
  $("link").textContent = "Connect";
}

function reached(frame) {
  if (!frame.lastEventId) return;
  cursor = frame.lastEventId;
  $("cursor").textContent = cursor;
}

function received(frame) {
  reached(frame);
  const event = JSON.parse(frame.data);
  total += 1;
  counts.set(event.service, (counts.get(event.service) ?? 0) + 1);
  $("total").textContent = String(total);
  $("latency").textContent = `${Math.max(0, Date.now() - Date.parse(event.time))} ms`;
  count(event.service);
  row(event);
}

function show(state, text) {
  $("connection").dataset.state = state;
  if ($("state").textContent !== text) $("state").textContent = text;
}

// --- what is seen

function element(name, kind, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Shows one event. Everything goes in as text: data is the publisher's, not the page's. */
function row(event) {
  const item = element("li");
  item.dataset.service = event.service;
  item.title = `id ${event.id}\ncursor ${event.cursor}`;
  const about = [
    event.propertyId && `property ${event.propertyId}`,
    event.entityType && `${event.entityType} ${event.entityId ?? ""}`.trim(),
  ].filter(Boolean).join(" · ");
  const body = element("span", "body", Object.entries(event.data).map(([key, value]) =>
    `${key} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", "));
  if (about) body.prepend(element("span", "about", about));
  item.append(element("span", "time", clock(event.time)), element("span", "", event.service), element("span", "type", event.type), body);
  add(item);
}

function note(kind, text) {
  const item = element("li", "note");
  item.dataset.kind = kind;
  item.append(element("span", "time", clock(new Date())), element("span", "note", `${kind} — ${text}`));
  add(item);
}

function add(item) {
  $("empty").hidden = true;
  const list = $("events");
  list.prepend(item);
  while (list.children.length > rowsKept) list.lastElementChild.remove();
}

function clock(time) {
  const at = new Date(time);
  return `${at.toLocaleTimeString("en-GB")}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

function count(name) {
  const figure = document.querySelector(`#services [data-service="${name}"] b`);
  if (figure) figure.textContent = String(counts.get(name));
}

function buttons() {
  for (const name of services) {
    const button = element("button", "", name);
    button.type = "button";
    button.dataset.service = name;
    button.setAttribute("aria-pressed", "false");
    button.append(element("b", "", "0"));
    button.onclick = () => {
      if (!pressed.delete(name)) pressed.add(name);
      button.setAttribute("aria-pressed", String(pressed.has(name)));
      connect();
    };
    $("services").append(button);
    $("service").append(new Option(name, name));
  }
}

// --- publishing

/** Posts an event, or several, and returns the answer; a refusal is thrown with the server's own words. */
async function publish(events) {
  const response = await fetch("/v2/events", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(events),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error([answer.title, answer.field, answer.detail].filter(Boolean).join(": "));
  return answer.events;
}

function say(text, ok) {
  $("answer").textContent = text;
  $("answer").dataset.ok = String(ok);
}

function suggestTypes() {
  const types = Object.keys(stories[$("service").value]);
  $("types").replaceChildren(...types.map((type) => new Option(type)));
  $("type").value = types[0];
}

$("publish").onsubmit = async (submit) => {
  submit.preventDefault();
  const event = Object.fromEntries([...new FormData(submit.target)].filter(([, value]) => value !== ""));
  try {
    if (event.data) event.data = JSON.parse(event.data);
  } catch (error) {
    say(`Data is not JSON: ${error.message}`, false);
    return;
  }
  try {
    const [appended] = await publish(event);
    say(`In the log at ${appended.cursor}`, true);
  } catch (error) {
    say(error.message, false);
  }
};

// --- the hotel

let playing = 0; // the timer; 0: quiet

async function play() {
  try {
    await publish(happening());
  } catch (error) {
    say(error.message, false);
    stop();
    return;
  }
  if (playing) playing = setTimeout(play, pause[0] + Math.random() * (pause[1] - pause[0]));
}

function stop() {
  clearTimeout(playing);
  playing = 0;
  $("play").textContent = "Play hotel traffic";
  $("play").setAttribute("aria-pressed", "false");
}

$("play").onclick = () => {
  if (playing) {
    stop();
    return;
  }
  // One event of each service at once, so that all are seen from the start.
  playing = setTimeout(play, pause[0]);
  $("play").textContent = "Stop hotel traffic";
  $("play").setAttribute("aria-pressed", "true");
  publish(services.map((name) => happening(name))).catch((error) => {
    say(error.message, false);
    stop();
  });
};

// --- the rest of the page

$("service").onchange = suggestTypes;
$("only").onchange = connect;
$("link").onclick = () => (source ? disconnect("disconnected") : connect());
$("clear").onclick = () => {
  $("events").replaceChildren();
  $("empty").hidden = false;
};
for (const place of document.querySelectorAll("[data-origin]")) place.textContent = location.origin;

buttons();
suggestTypes();
connect();
