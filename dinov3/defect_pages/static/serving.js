// The server's page: images go to POST /v1/inspect, a few at a time, and each answer becomes a card. What a file or the
// server says is set as text, never as HTML. An image without an answer has no verdict.
const byId = (id) => document.getElementById(id);
const VERDICTS = ["accept", "review", "reject"];
const SIGNS = ["✓", "?", "✕"];
const AT_A_TIME = 4; // requests
const { colors } = JSON.parse(byId("page").textContent);
const say = (key, values = {}) => t(key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
const percent = (share) => `${Number((100 * share).toPrecision(3))}%`;

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
const badge = (verdict) =>
  make("span", { className: `badge ${VERDICTS[verdict]}`, textContent: `${SIGNS[verdict]} ${t(VERDICTS[verdict])}` });

// ---- The model
let model = null;
let key = "";
const limits = { review: 0, reject: 1 };
let own = { ...limits };
const headers = () => (key ? { "X-API-Key": key } : {});

async function readModel() {
  let answer;
  try {
    answer = await fetch("/v1/model", { headers: headers() });
  } catch (error) {
    return tell("no_answer");
  }
  byId("key-form").hidden = answer.status !== 401;
  if (!answer.ok) return tell(answer.status === 401 && key ? "wrong_key" : "");
  tell("");
  model = await answer.json();
  const { classification, review } = model.thresholds;
  own = { review: review ?? classification, reject: classification };
  Object.assign(limits, own);
  drawAll();
  work();
}

let told = "";
function tell(text) {
  told = text;
  byId("problem").hidden = !told;
  byId("problem").textContent = told && t(told);
}

// ---- Images, in the order they came
const items = [];
let running = 0;

function add(files) {
  for (const file of files) {
    if (file.name.startsWith(".")) continue;
    const item = { file, name: file.webkitRelativePath || file.name, state: "waiting", card: make("article") };
    items.push(item);
    byId("results").append(item.card);
    drawCard(item);
  }
  byId("outcome").hidden = !items.length;
  drawCounts();
  work();
}

function work() {
  while (model && running < AT_A_TIME) {
    const item = items.find((one) => one.state === "waiting");
    if (!item) break;
    running++;
    item.state = "sent";
    inspect(item).finally(() => {
      running--;
      drawCard(item);
      drawCounts();
      work();
    });
  }
}

async function inspect(item) {
  const query = new URLSearchParams({ name: item.name.slice(-200), mask: true, attention: true, explain: true });
  const request = {
    method: "POST",
    body: item.file,
    headers: { ...headers(), "Content-Type": "application/octet-stream" },
  };
  try {
    const answer = await fetch(`/v1/inspect?${query}`, request);
    const content = await answer.json();
    if (answer.status === 503) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * (Number(answer.headers.get("Retry-After")) || 1)));
      item.state = "waiting";
    } else if (answer.status === 401) {
      [item.state, model] = ["waiting", null];
      byId("key-form").hidden = false;
    } else {
      item.result = content.results ? content.results[0] : { image: item.name, error: content.error };
      item.answer = { request_id: content.request_id, time: content.time, model: content.model };
      item.state = "done";
    }
  } catch (error) {
    item.result = { image: item.name, error: t("no_answer") };
    item.state = "done";
  }
}

// ---- Verdicts at the limits of the sliders
function verdictNow(result) {
  const p = result.defect_probability;
  const [mildest, strictest] = result.bounds;
  return Math.min(Math.max(p >= limits.reject ? 2 : p >= limits.review ? 1 : 0, mildest), strictest);
}

function setLimit(name, value) {
  if (!(value >= 0 && value <= 1)) return; // a number that is still being typed
  const noBand = limits.review === limits.reject;
  limits[name] = value;
  if (name === "review") limits.reject = Math.max(limits.reject, limits.review);
  else limits.review = noBand ? limits.reject : Math.min(limits.review, limits.reject);
  drawAll();
}
for (const name of ["review", "reject"])
  for (const kind of ["range", "value"])
    byId(`${name}-${kind}`).addEventListener("input", (event) => setLimit(name, event.target.valueAsNumber));
byId("reset").addEventListener("click", () => drawAll(Object.assign(limits, own)));

// ---- Drawing
function drawAll() {
  for (const name of ["review", "reject"]) {
    byId(`${name}-range`).value = limits[name];
    if (document.activeElement !== byId(`${name}-value`)) byId(`${name}-value`).value = Number(limits[name].toPrecision(4));
  }
  if (model) {
    const values = { ...model, fingerprint: model.fingerprint.slice(0, 12), size: model.image_size.join(" × ") };
    byId("model").textContent = say("model", { ...values, classes: model.classes.join(", ") });
  }
  tell(told);
  items.forEach(drawCard);
  drawCounts();
}

function drawCounts() {
  const [given, now] = [[0, 0, 0], [0, 0, 0]];
  const done = items.filter((item) => item.state === "done");
  for (const { result } of done)
    if (result.verdict) {
      given[VERDICTS.indexOf(result.verdict)]++;
      now[verdictNow(result)]++;
    }
  VERDICTS.forEach((verdict, i) => {
    byId(`count-${verdict}`).textContent = given[i];
    byId(`now-${verdict}`).textContent = now[i] === given[i] ? "" : say("would_be", { n: now[i] });
  });
  byId("count-all").textContent = done.length;
  byId("count-error").textContent = done.length - given.reduce((a, b) => a + b);
  const left = items.length - done.length;
  byId("progress").textContent = left ? say(model ? "waiting" : "stopped", { n: left }) : items.length ? t("done") : "";
}

function drawCard(item) {
  const { card, result } = item;
  if (!item.picture) item.picture = makePicture(item);
  const text = make("div", { className: "text" });
  const name = make("p", { className: "name" }, make("bdi", { textContent: item.name }));
  if (item.state !== "done") text.append(name, make("p", { className: "soft", textContent: "…" }));
  else if (!result.verdict) {
    card.className = "failed";
    const mark = make("span", { className: "badge", textContent: `! ${t("no_verdict")}` });
    text.append(make("p", {}, mark), name, make("p", { textContent: result.error }));
  } else {
    const [given, now] = [VERDICTS.indexOf(result.verdict), verdictNow(result)];
    card.className = result.verdict;
    const badges = make("p", {}, badge(given), ...(now === given ? [] : [" → ", badge(now)]));
    const reason = result.reasons[lang === "zh" ? 1 : 0];
    text.append(badges, name, make("p", { textContent: reason }));
    text.append(make("p", { className: "soft", textContent: `${result.predicted_class} · ${result.milliseconds} ms` }));
    text.append(regions(result));
    if (!item.drawn) drawLayers(item);
  }
  card.replaceChildren(item.picture, text);
}

function regions(result) {
  if (!result.num_regions) return make("p", { className: "soft", textContent: t("no_region") });
  const values = { n: result.num_regions, share: percent(result.mask_area_fraction) };
  const heads = ["class", "position", "area", "length", "width", "score"].map((name) =>
    make("th", { className: name === "class" ? "" : "num", textContent: t(name) }),
  );
  const rows = result.regions.slice(0, 8).map((one) => {
    const numbers = [one.box.slice(0, 2).join(", "), one.area, one.length.toFixed(1), one.width.toFixed(1), one.score.toFixed(3)];
    const cells = numbers.map((textContent) => make("td", { className: "num", textContent }));
    return make("tr", {}, make("td", { textContent: one.class_name }), ...cells);
  });
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
  return make("details", {}, make("summary", { textContent: say("regions", values) }), make("div", { className: "scroll" }, table));
}

function makePicture(item) {
  const photo = make("img", { className: "photo", alt: item.name, src: URL.createObjectURL(item.file) });
  photo.addEventListener("error", () => photo.replaceWith(make("span", { className: "soft", textContent: t("no_picture") })));
  return make("div", { className: "frame" }, photo);
}

async function drawLayers(item) {
  item.drawn = true;
  const mask = await coloured("mask", item.result.mask, (value) => colors[value && 1 + ((value - 1) % (colors.length - 1))]);
  const small = await coloured("attention", item.result.attention, () => "#ff9000");
  const scale = Math.min(1, 640 / Math.max(mask.width, mask.height));
  const size = { width: Math.ceil(mask.width * scale), height: Math.ceil(mask.height * scale) };
  const attention = make("canvas", { className: "attention", ...size }); // it spans the image, whatever its own shape
  attention.getContext("2d").drawImage(small, 0, 0, size.width, size.height);
  item.picture.append(mask, attention);
}

async function coloured(layer, address, colorOf) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  const canvas = make("canvas", { className: layer, width: picture.naturalWidth, height: picture.naturalHeight });
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const content = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < content.data.length; at += 4) {
    const value = content.data[at];
    const color = colorOf(value);
    for (let i = 0; i < 3; i++) content.data[at + i] = parseInt(color.slice(1 + 2 * i, 3 + 2 * i), 16);
    content.data[at + 3] = layer === "mask" ? (value ? 150 : 0) : 0.8 * value;
  }
  context.putImageData(content, 0, 0);
  return canvas;
}

// ---- What comes in, and what goes out
async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (!some.length) return found;
    for (const one of some) found.push(...(await filesOf(one)));
  }
}
const drop = byId("drop");
for (const kind of ["dragover", "dragleave", "drop"])
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
  });
drop.addEventListener("drop", async (event) => {
  for (const entry of [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean))
    add(await filesOf(entry));
});
for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
  byId(button).addEventListener("click", () => byId(input).click());
  byId(input).addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = "";
  });
}
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = byId("key").value;
  readModel();
});
byId("controls").addEventListener("change", (event) => {
  if (event.target.name === "layer") byId("results").dataset.layer = event.target.value;
});
byId("clear").addEventListener("click", () => {
  for (const item of items) item.picture?.querySelector("img")?.src && URL.revokeObjectURL(item.picture.querySelector("img").src);
  items.length = 0;
  byId("results").replaceChildren();
  byId("outcome").hidden = true;
  drawCounts();
});

const PICTURES = ["mask", "attention", "reasons", "bounds"]; // of this page alone
function records() {
  return items
    .filter((item) => item.state === "done")
    .map(({ result, answer }) => ({ ...Object.fromEntries(Object.entries(result).filter(([name]) => !PICTURES.includes(name))), ...answer }));
}
function save(name, type, text) {
  const link = make("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
function cell(value) {
  let text = value === null || value === undefined ? "" : String(value);
  if (typeof value === "string" && /^[=+\-@\t\r\n＝＋－＠]/.test(text)) text = `'${text}`; // a formula to a spreadsheet
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
const COLUMNS = "image verdict predicted_class defect_probability threshold review_threshold mask_area_fraction num_regions reason milliseconds error request_id time".split(" ");
byId("save-json").addEventListener("click", () => save("results.json", "application/json", JSON.stringify(records(), null, 1)));
byId("save-csv").addEventListener("click", () => {
  const lines = records().map((record) => [...COLUMNS.map((name) => record[name]), record.model?.fingerprint].map(cell).join(","));
  save("results.csv", "text/csv", `\ufeff${[[...COLUMNS, "model_fingerprint"].join(","), ...lines].join("\r\n")}\r\n`);
});
document.addEventListener("lang", drawAll);
readModel();
