// The pictures of the inspection report: which of them, in what order, and the grid. Comes after report.js.

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
