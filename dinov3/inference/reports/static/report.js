// The inspection report's page. Texts come from t(key), which the page puts before this script; whatever the images
// brought along (names, classes, reasons, errors) is set as text, never as HTML.
const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);
const report = read("report");
const rows = read("rows"); // the images that have a picture, the most suspicious first
const VERDICTS = ["accept", "review", "reject"];
const SIGNS = ["✓", "?", "✕"]; // verdicts are told apart without colour, too
const MILLION = 1e6; // probabilities are compared in millionths, as the tables have them
const PICTURES_PRINTED = 120;

const say = (key, values = {}) => t(key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
const count = (n) => n.toLocaleString("en");
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const percent = (share) => `${three.format(100 * share)}%`;
const reason = (row) => row.reasons[lang === "zh" ? 1 : 0];

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties))
    if (key.includes("-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  node.append(...children);
  return node;
}
const badge = (verdict) =>
  make("span", { className: `badge ${VERDICTS[verdict]}`, textContent: `${SIGNS[verdict]} ${t(VERDICTS[verdict])}` });

// ---- Thresholds. Of every image: probability (20 bits), mildest and strictest verdict that it can have (2 bits each).
const bytes = Uint8Array.from(atob(byId("everything").textContent), (c) => c.charCodeAt(0));
const everything = new Uint32Array(bytes.buffer);
const asInspected = { review: Math.round(report.review * MILLION), reject: Math.round(report.reject * MILLION) };
const limits = { ...asInspected };

const verdictAt = (p, mildest, strictest) =>
  Math.min(Math.max(p >= limits.reject ? 2 : p >= limits.review ? 1 : 0, mildest), strictest);
const verdictNow = (row) => verdictAt(row.p, ...row.bounds);
const changes = (row) => verdictNow(row) !== row.verdict;

function tally() {
  const totals = [0, 0, 0];
  for (const packed of everything) totals[verdictAt(packed & 0xfffff, (packed >>> 20) & 3, packed >>> 22)]++;
  return totals;
}

function drawHistogram() {
  const bins = new Array(50).fill(0);
  for (const packed of everything) bins[Math.min(Math.floor((packed & 0xfffff) / (MILLION / 50)), 49)]++;
  const most = Math.max(...bins, 1);
  const height = (n) => (100 * Math.log10(1 + n)) / Math.log10(1 + most);
  byId("bars").replaceChildren(
    ...bins.map((n, i) => {
      const values = { from: (i / 50).toFixed(2), to: ((i + 1) / 50).toFixed(2), n: count(n) };
      return make("i", { title: say("bin", values), style: `height: ${height(n)}%` });
    }),
  );
  const ticks = [0, 1, 2, 3, 4, 5, 6, 7].map((power) => 10 ** power).filter((n) => n <= most);
  byId("ticks").replaceChildren(
    ...ticks.map((n) => make("span", { textContent: count(n), style: `bottom: ${height(n)}%` })),
  );
}

function drawLimits() {
  const { review, reject } = limits;
  const edges = [0, review, reject, MILLION];
  const now = tally();
  VERDICTS.forEach((verdict, i) => {
    const zone = byId(`zone-${verdict}`);
    zone.style = `left: ${edges[i] / 10000}%; width: ${(edges[i + 1] - edges[i]) / 10000}%`;
    zone.classList.toggle("narrow", zone.firstElementChild.offsetWidth + 6 > zone.clientWidth);
    const change = now[i] - report.counts[verdict];
    byId(`then-${verdict}`).textContent = count(report.counts[verdict]);
    byId(`now-${verdict}`).textContent = count(now[i]);
    byId(`change-${verdict}`).textContent = change ? (change > 0 ? "+" : "−") + count(Math.abs(change)) : "";
  });
  for (const name of ["review", "reject"]) {
    byId(`${name}-range`).value = limits[name] / MILLION;
    if (document.activeElement !== byId(`${name}-value`)) byId(`${name}-value`).value = limits[name] / MILLION;
  }
  byId("reset").disabled = review === asInspected.review && reject === asInspected.reject;
}

let waiting = 0; // the request for the next frame, in which the grid follows the sliders
function setLimit(name, value) {
  if (!(value >= 0 && value <= 1)) return; // a number that is still being typed
  const noBand = limits.review === limits.reject;
  limits[name] = Math.round(value * MILLION);
  if (name === "review") limits.reject = Math.max(limits.reject, limits.review);
  else limits.review = noBand ? limits.reject : Math.min(limits.review, limits.reject);
  limitsChanged();
}

function limitsChanged() {
  drawLimits();
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(select);
}

for (const name of ["review", "reject"]) {
  for (const kind of ["range", "value"])
    byId(`${name}-${kind}`).addEventListener("input", (event) => setLimit(name, event.target.valueAsNumber));
  byId(`${name}-value`).addEventListener("blur", drawLimits);
}
byId("reset").addEventListener("click", () => limitsChanged(Object.assign(limits, asInspected)));

// ---- Filters and order
const controls = byId("controls");
const className = (row) => report.classes[row.class];
const fromLimit = (row) => Math.min(Math.abs(row.p - limits.reject), Math.abs(row.p - limits.review));
const names = new Intl.Collator("en", { numeric: true });
const ORDERS = {
  suspicious: (a, b) => a.index - b.index,
  probability: (a, b) => b.p - a.p,
  probability_up: (a, b) => a.p - b.p,
  nearest: (a, b) => fromLimit(a) - fromLimit(b),
  name: (a, b) => names.compare(a.name, b.name),
  area: (a, b) => b.area - a.area,
  input: (a, b) => a.position - b.position,
};
let selected = []; // the rows that pass the filters, in order

function select() {
  const { text, verdict, kind, disagreement, order, masks } = controls.elements;
  const wanted = text.value.trim().toLowerCase();
  const hasVerdict = (row) =>
    verdict.value === "changed" ? changes(row) : !verdict.value || VERDICTS[row.verdict] === verdict.value;
  selected = rows.filter(
    (row) =>
      hasVerdict(row) &&
      (!kind.value || row.class === Number(kind.value)) &&
      (!disagreement.checked || row.disagrees) &&
      (!wanted || `${row.name}\n${className(row)}\n${row.reasons.join("\n")}`.toLowerCase().includes(wanted)),
  );
  selected.sort(ORDERS[order.value]);
  const pressed = disagreement.checked ? "disagreement" : verdict.value;
  for (const button of document.querySelectorAll("button.card"))
    button.setAttribute("aria-pressed", String(button.dataset.filter === pressed));
  const numbers = { n: count(selected.length), of: count(rows.length) };
  byId("found").textContent = say(selected.length ? "found" : "nothing", numbers);
  grid.classList.toggle("masks", masks.checked);
  drawGrid(true);
}

controls.addEventListener("input", select);
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("reset", () => setTimeout(select)); // after the fields are empty
for (const button of document.querySelectorAll("button.card"))
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    const { verdict, disagreement } = controls.elements;
    disagreement.checked = on && button.dataset.filter === "disagreement";
    verdict.value = on && !disagreement.checked ? button.dataset.filter : "";
    select();
    byId("images").scrollIntoView();
  });

// ---- Pictures: blocks of base64 that are parsed when first needed
const blocks = new Map();
function pictures(row) {
  const block = Math.floor(row.index / report.block);
  if (!blocks.has(block)) blocks.set(block, read(`pictures-${block}`));
  return blocks.get(block)[row.index % report.block];
}

function frame(row, alt, [photo, mask] = pictures(row)) {
  if (!photo) return make("span", { className: "frame none", textContent: t("no_picture") });
  const layers = [make("img", { className: "photo", src: `data:image/jpeg;base64,${photo}`, alt })];
  if (mask) layers.push(make("img", { className: "mask", src: `data:image/png;base64,${mask}`, alt: "" }));
  return make("span", { className: "frame" }, ...layers);
}

// A name may hold anything that a file system allows: #, ?, %, spaces, newlines.
const encodePath = (path) => path.split("/").map(encodeURIComponent).join("/");
const addressOf = (row) => `#image=${encodePath(row.name)}`;
const describe = (row) =>
  say("alt", { name: row.name, verdict: t(VERDICTS[row.verdict]), class: className(row), p: probability(row.p) });
const probability = (millionths) => (millionths / MILLION).toFixed(millionths < 1000 || millionths > 999000 ? 5 : 3);

// ---- The grid: only what is near the window is in the document, however many images there are.
const grid = byId("grid");
const cells = new Map(); // place in `selected` -> element
const [GAP, SMALLEST, CAPTION] = [12, 158, 88]; // pixels
let [columns, side, printing] = [1, SMALLEST, false];

function drawGrid(anew = false) {
  const width = grid.clientWidth;
  columns = Math.max(1, Math.floor((width + GAP) / (SMALLEST + GAP)));
  side = (width - GAP * (columns - 1)) / columns;
  const pitch = side + CAPTION + GAP;
  const lines = Math.ceil(selected.length / columns);
  grid.style.height = `${lines * pitch}px`;
  // Two lines more on either side, and two in any case, so that the tab key finds its way in.
  const above = -grid.getBoundingClientRect().top / pitch;
  const topLine = Math.max(0, Math.min(Math.floor(above), lines) - 2);
  const endLine = Math.max(0, Math.ceil(above + window.innerHeight / pitch)) + 2;
  const [first, last] = printing ? [0, PICTURES_PRINTED] : [topLine * columns, endLine * columns];
  if (anew) grid.replaceChildren(), cells.clear();
  for (const [place, cell] of cells) if (place < first || place >= last) cell.remove(), cells.delete(place);
  let after = null;
  for (let place = first; place < Math.min(last, selected.length); place++) {
    if (!cells.has(place)) {
      const cell = makeCell(selected[place], place);
      grid.insertBefore(cell, after ? after.nextSibling : grid.firstChild);
      cells.set(place, cell);
    }
    after = cells.get(place);
    const [x, y] = [(place % columns) * (side + GAP), Math.floor(place / columns) * pitch];
    after.style = `width: ${side}px; height: ${side + CAPTION}px; transform: translate(${x}px, ${y}px)`;
  }
}

function makeCell(row, place) {
  const badges = [badge(row.verdict)];
  if (changes(row)) {
    badges[0].textContent = SIGNS[row.verdict];
    badges.push("→", badge(verdictNow(row)));
  }
  const p = probability(row.p);
  const first = changes(row) ? `${p} · ` : row.disagrees ? "⚠ " : "";
  const link = make(
    "a",
    { className: `image ${VERDICTS[row.verdict]}`, href: addressOf(row), title: reason(row) },
    frame(row, describe(row)),
    make("span", { className: "line" }, make("span", {}, ...badges), changes(row) ? "" : make("b", { textContent: p })),
    make("span", { className: "name" }, make("bdi", { textContent: row.name, title: row.name })),
    make("span", { className: "note", textContent: `${first}${className(row)} · ${percent(row.area)}` }),
  );
  link.dataset.place = place;
  const position = { "aria-setsize": selected.length, "aria-posinset": place + 1 };
  return make("div", { role: "listitem", className: "cell", ...position }, link);
}

function focusPlace(place) {
  if (place < 0 || place >= selected.length) return;
  const y = grid.getBoundingClientRect().top + Math.floor(place / columns) * (side + CAPTION + GAP);
  if (y < 60 || y + side + CAPTION > window.innerHeight)
    window.scrollBy({ top: y - (window.innerHeight - side - CAPTION) / 2, behavior: "instant" });
  drawGrid();
  cells.get(place).firstChild.focus({ preventScroll: true });
}
grid.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (!by) return;
  event.preventDefault();
  focusPlace(Number(event.target.dataset.place) + by);
});
addEventListener("scroll", () => drawGrid(), { passive: true });
addEventListener("resize", () => drawGrid());
addEventListener("resize", drawLimits); // which labels have room
for (const kind of ["beforeprint", "afterprint"])
  addEventListener(kind, () => {
    printing = kind === "beforeprint";
    drawGrid(true);
    const all = selected.length <= PICTURES_PRINTED;
    byId("printed").textContent = all ? "" : say("printed", { n: PICTURES_PRINTED, of: count(selected.length) });
  });

// ---- Full view
const full = byId("full");
let shown = null;

function openFromAddress() {
  shown = rows.find((row) => addressOf(row) === location.hash) ?? null;
  if (!shown) return full.open && full.close();
  drawFull();
  if (!full.open) full.showModal();
}

function drawFull() {
  const [row, place] = [shown, selected.indexOf(shown)];
  byId("full-name").textContent = row.name;
  byId("full-place").textContent = place < 0 ? "" : `${count(place + 1)} / ${count(selected.length)}`;
  byId("full-badge").replaceChildren(badge(row.verdict));
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === selected.length - 1;
  if (report.panels) {
    const src = `${report.panels}/${encodePath(row.picture)}`;
    const panels = make("img", { className: "panels", alt: describe(row), src });
    panels.addEventListener("error", () => row === shown && drawThumbnails(row));
    byId("full-picture").replaceChildren(panels);
  } else drawThumbnails(row);
  byId("full-bars").replaceChildren(
    ...report.classes.map((name, i) => {
      const style = `width: ${row.probabilities[i] / 10000}%; background: ${report.colors[i]}`;
      const track = make("span", { className: "track" }, make("i", { style }));
      const number = make("span", { className: "num", textContent: probability(row.probabilities[i]) });
      return make("div", { className: "bar" }, make("span", { className: "label", textContent: name }), track, number);
    }),
  );
  const facts = [
    ["why", reason(row)],
    ["class", className(row)],
    ["defect_probability", `${(row.p / MILLION).toFixed(6)}`],
    ["marked", row.regions ? say("area", { share: percent(row.area), n: row.regions }) : t("no_region")],
    ["disagreement", t(row.disagrees ? "yes" : "no")],
    ["milliseconds", `${row.milliseconds} ms`],
  ];
  if (changes(row)) facts.splice(1, 0, ["with_new_limits", t(VERDICTS[verdictNow(row)])]);
  const entry = ([key, value]) => [make("dt", { textContent: t(key) }), make("dd", { textContent: value })];
  byId("full-facts").replaceChildren(...facts.flatMap(entry));
  drawRegions(row.largest);
}

function drawThumbnails(row) {
  const [photo, mask] = pictures(row);
  const plain = mask ? [frame(row, "", [photo, ""])] : [];
  byId("full-picture").replaceChildren(make("div", { className: "pair" }, ...plain, frame(row, describe(row))));
}

function drawRegions(regions) {
  const size = (pixels, millimetres, square = "") =>
    `${three.format(millimetres ?? pixels)} ${millimetres === undefined ? "px" : `mm${square}`}`;
  const texts = (r) => [
    r.class_name,
    r.box.slice(0, 2).join(", "),
    size(r.area, r.area_mm2, "²"),
    size(r.length, r.length_mm),
    size(r.width, r.width_mm),
    r.score.toFixed(2),
  ];
  const cell = (textContent, i) => make("td", { className: i ? "num" : "", textContent });
  byId("full-regions").hidden = !regions.length;
  byId("region-rows").replaceChildren(...regions.map((r) => make("tr", {}, ...texts(r).map(cell))));
  const more = shown.regions - regions.length;
  byId("more-regions").textContent = more > 0 ? say("more_regions", { n: more }) : "";
}

function step(by) {
  const next = selected[selected.indexOf(shown) + by];
  if (next) location.replace(addressOf(next));
}

byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => full.close());
full.addEventListener("click", (event) => event.target === full && full.close()); // beside it
full.addEventListener("keydown", (event) => step({ ArrowLeft: -1, ArrowRight: 1 }[event.key]));
full.addEventListener("close", () => {
  history.replaceState(null, "", location.href.split("#")[0]);
  focusPlace(selected.indexOf(shown));
  shown = null;
});
addEventListener("hashchange", openFromAddress);

document.addEventListener("lang", () => {
  drawHistogram();
  drawLimits();
  select();
  shown ? drawFull() : openFromAddress();
});
