// One image of the inspection report in full, and the first drawing of the page. Comes after images.js.

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
