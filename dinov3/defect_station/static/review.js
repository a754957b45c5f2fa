// One image at a time, the next one loaded beforehand. A decision shows the next image at once and is stored meanwhile;
// if it cannot be stored, its image comes back.
const AHEAD = 2; // images that are this page's own
const EVERY = 3000; // milliseconds; asks then if there is nothing to show, or the fifth time, so that the server knows
const FIFTH = 5; // which images are still looked at here
const { person: keyName, classes } = JSON.parse(byId("page").textContent);
const PAGE = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(16)).join("");
const stored = (name) => { try { return localStorage.getItem(name); } catch (error) { return null; } };
const store = (name, value) => { try { localStorage.setItem(name, value); } catch (error) {} };
const ZOOM = 3; // at least, of what the whole image takes

let person = keyName || stored("defect-review-name") || "";
let queue = [];
let decided = []; // this page's, the latest last: {id, name, decisions}
let left = 0;
let ofOthers = 0;
let zoomed = false;
let maskShown = true;
let wanted = new URLSearchParams(location.search).get("image");
const settled = new Set(); // decided here, or on the way to be

// ---- What to decide on
let filling = null;
let unreachable = false;
async function fill() {
  while (filling) await filling;
  filling = askMore().finally(() => (filling = null));
  return filling;
}
async function askMore() {
  const query = new URLSearchParams({ page: PAGE, count: Math.max(0, AHEAD - queue.length), keep: queue.map((item) => item.id) });
  const asked = wanted;
  if (asked) query.set("image", asked);
  let answer;
  try {
    answer = await fetch(`/review/next?${query}`);
  } catch (error) {
    unreachable = true;
    return tell("problem", say("no_answer", { time: timeNow() }));
  }
  if (answer.status === 401) return location.reload();
  const content = await answer.json();
  if (!answer.ok) return tell("problem", content.error);
  if (unreachable) tell("problem", "");
  unreachable = false;
  const fresh = content.items.filter((item) => !settled.has(item.id) && !queue.some((other) => other.id === item.id));
  for (const item of fresh) item.node = nodeOf(item);
  queue.push(...fresh);
  const first = queue.find((item) => String(item.id) === asked); // it may have come before it was asked for
  if (first) queue = [first, ...queue.filter((item) => item !== first)];
  if (wanted === asked) wanted = null;
  [left, ofOthers] = [content.left, content.of_others];
  draw();
}

function nodeOf(item) {
  const holder = document.createElement("template");
  holder.innerHTML = item.html; // made by the server, which escapes names
  const node = holder.content.firstElementChild;
  const view = node.querySelector(".view");
  for (const image of view.querySelectorAll("img"))
    image.addEventListener("error", () => view.classList.add("broken"), { once: true });
  dragged(view);
  return node;
}

// ---- Decisions
async function decide(decision, className = "") {
  const item = queue.shift();
  if (!item) return;
  const form = { page: PAGE, person, image: item.id, after: item.decisions, decision, class_name: className, comment: byId("comment").value };
  byId("comment").value = "";
  settled.add(item.id);
  const entry = { id: item.id, name: item.name, decisions: null };
  decided.push(entry);
  left = Math.max(0, left - 1);
  const what = t(decision) + (className && ` (${className})`);
  tell("message", queue.length ? say("next", { what, name: item.name, next: queue[0].name }) : say("last", { what, name: item.name }));
  show();
  entry.sending = post(form, item).then((number) => {
    if (number === null) decided = decided.filter((one) => one !== entry);
    entry.decisions = number;
  });
  await entry.sending;
  await fill();
}

// The number of the decision; null: it was not stored, and why is told.
async function post(form, item) {
  let answer;
  let content;
  try {
    answer = await send("/review/decision", form);
    content = await answer.json();
  } catch (error) {
    answer = { status: 0 };
  }
  if (answer.status === 200) {
    tell("problem", "");
    return content.decisions;
  }
  if (answer.status === 401) location.reload();
  if (answer.status === 409) {
    const names = { person: content.person, name: item.name, decision: t(content.decision) };
    tell("message", say("conflict", names));
    return null;
  }
  settled.delete(item.id);
  if (item.node) {
    queue.unshift(item);
    byId("comment").value ||= form.comment;
    left++;
    show();
  }
  tell("problem", answer.status === 0 ? say("not_stored", item) : say("refused", { error: content.error }));
  return null;
}

async function undo() {
  const entry = decided.pop();
  if (!entry) return tell("message", t("nothing_to_undo"));
  await entry.sending;
  if (entry.decisions === null) return;
  const form = { page: PAGE, person, image: entry.id, after: entry.decisions, decision: "undo" };
  const number = await post(form, { id: entry.id, name: entry.name });
  if (number === null) return;
  settled.delete(entry.id);
  wanted = String(entry.id);
  await fill();
  tell("message", say("undone", entry));
}

async function putOff() {
  const item = queue.shift();
  if (!item) return;
  show();
  tell("message", say("put_off", item));
  await send("/review/put_off", { page: PAGE, image: item.id }).catch(() => null);
  await fill();
}

// ---- What is shown
function show() {
  zoom(false);
  draw();
}
function draw() {
  const item = queue[0];
  byId("desk").hidden = !item;
  byId("nothing").hidden = Boolean(item);
  byId("nothing-text").textContent = ofOthers ? say("of_others", { n: ofOthers }) : t("all_done");
  if (item && byId("stage").firstElementChild !== item.node) byId("stage").replaceChildren(item.node);
  if (!item) byId("stage").replaceChildren();
  byId("stage").classList.toggle("plain-picture", !maskShown);
  byId("mask-text").dataset.text = maskShown ? "mask_off" : "mask_on";
  byId("mask-text").textContent = t(byId("mask-text").dataset.text);
  byId("progress-text").textContent = say("progress", { done: decided.length, left });
  byId("progress").max = Math.max(1, decided.length + left);
  byId("progress").value = decided.length;
}
function tell(where, text) {
  byId(where).hidden = !text;
  byId(where).textContent = text;
}

function zoom(on) {
  zoomed = on;
  const view = byId("stage").querySelector(".view[data-width]");
  byId("zoom-text").dataset.text = on ? "zoom_out" : "zoom_in";
  byId("zoom-text").textContent = t(byId("zoom-text").dataset.text);
  if (!view) return;
  const shown = Math.min(view.clientWidth, (view.clientHeight * view.dataset.width) / view.dataset.height);
  view.classList.toggle("zoomed", on);
  view.style.setProperty("--wide", on ? `${Math.max(view.dataset.width, ZOOM * shown)}px` : "auto");
  if (!on) return;
  for (const image of view.querySelectorAll("img")) image.src = image.src.replace("size=medium", "size=full");
  const wide = Math.max(view.dataset.width, ZOOM * shown);
  const high = (wide * view.dataset.height) / view.dataset.width;
  view.scrollTo(view.dataset.x * wide - view.clientWidth / 2, view.dataset.y * high - view.clientHeight / 2);
  view.focus({ preventScroll: true });
}
function dragged(view) {
  let from = null;
  view.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse") from = [event.clientX + view.scrollLeft, event.clientY + view.scrollTop];
  });
  view.addEventListener("pointermove", (event) => {
    if (from && event.buttons) view.scrollTo(from[0] - event.clientX, from[1] - event.clientY);
  });
  view.addEventListener("dblclick", () => zoom(!zoomed));
}

// ---- Keys and buttons
const ACTIONS = {
  a: () => decide("accept"),
  r: () => decide("reject"),
  u: undo,
  s: putOff,
  z: () => zoom(!zoomed),
  m: () => { maskShown = !maskShown; draw(); },
  c: () => byId("comment").focus(),
};
classes.forEach((name, i) => (ACTIONS[i + 1] = () => decide("reject", name)));
document.addEventListener("keydown", (event) => {
  if (event.target.id === "comment" && event.key === "Escape") event.target.blur();
  const typing = event.target.matches("input:not([type=checkbox]), textarea, select");
  const action = ACTIONS[event.key.toLowerCase()];
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat || !action) return;
  if (!byId("keys").checked || byId("review").hidden) return;
  event.preventDefault();
  action();
});
for (const button of document.querySelectorAll("button[data-key]")) button.addEventListener("click", () => ACTIONS[button.dataset.key]());
byId("keys").checked = stored("defect-review-keys") !== "off";
byId("keys").addEventListener("change", (event) => store("defect-review-keys", event.target.checked ? "on" : "off"));

// ---- Who reviews
function begin() {
  if (!keyName) {
    byId("who-form-section").hidden = Boolean(person);
    byId("person").textContent = person;
  }
  byId("review").hidden = !person;
  if (person) fill();
  else byId("who").focus();
}
byId("who-form")?.addEventListener("submit", (event) => {
  event.preventDefault();
  person = byId("who").value.trim();
  if (person) store("defect-review-name", person);
  begin();
});
byId("change-name")?.addEventListener("click", () => {
  byId("who").value = person;
  person = "";
  begin();
});
document.addEventListener("lang", draw);
window.addEventListener("pagehide", () => navigator.sendBeacon("/review/leave", new Blob([JSON.stringify({ page: PAGE })], { type: "application/json" })));
let times = 0;
setInterval(() => person && (++times % FIFTH === 0 || !queue.length) && fill(), EVERY);
begin();
