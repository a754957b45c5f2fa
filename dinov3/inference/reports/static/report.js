// The inspection report's page: what all its scripts use, and the thresholds. Texts come from t(key), which the page
// puts before this script; whatever the images brought along (names, classes, reasons, errors) is set as text, never
// as HTML.
const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);
const report = read("report");
const rows = read("rows"); // the images that have a picture, the most suspicious first
const VERDICTS = ["accept", "review", "reject"];
const SIGNS = ["✓", "?", "✕"]; // verdicts are told apart without colour, too
const MILLION = 1e6; // probabilities are compared in millionths
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
const inMillionths = (limit) => (limit > 0 ? Math.max(Math.round(limit * MILLION), 1) : 0);
const asInspected = { review: inMillionths(report.review), reject: inMillionths(report.reject) };
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
