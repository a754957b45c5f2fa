// Asks every two seconds for what came in; the server makes the HTML.
const EVERY = 2000;
const VERDICTS = ["accept", "review", "reject", "error"];
const latest = byId("latest");
let newest = 0;
let paused = false;
let asking = 0; // tells an answer that is still wanted from one that is not
let reached = "";

async function ask() {
  const mine = asking;
  const query = new URLSearchParams({ kind: byId("kind").value, after: newest });
  let answer;
  try {
    answer = await fetch(`/live/news?${query}`);
  } catch (error) {
    return tell(say("no_answer", { time: reached || "–" }));
  }
  if (answer.status === 401) return location.reload();
  const news = await answer.json();
  if (mine !== asking) return;
  if (!answer.ok) return tell(news.error);
  reached = timeNow();
  tell(news.problem);
  byId("drift").hidden = !news.drift;
  for (const html of news.cards.reverse()) {
    const holder = document.createElement("template");
    holder.innerHTML = html; // made by the server, which escapes names
    for (const image of holder.content.querySelectorAll("img")) image.addEventListener("error", () => image.remove());
    latest.prepend(holder.content);
  }
  newest = Math.max(newest, news.newest);
  while (latest.children.length > latest.dataset.most) latest.lastElementChild.remove();
  byId("empty").hidden = latest.children.length > 0;
  const all = VERDICTS.reduce((sum, name) => sum + news.counts[name], 0);
  byId("count-all").textContent = all;
  for (const name of VERDICTS) {
    byId(`count-${name}`).textContent = news.counts[name];
    byId(`share-${name}`).textContent = all ? `${((100 * news.counts[name]) / all).toFixed(1)}%` : "";
  }
  byId("left").textContent = news.left;
  byId("since").textContent = news.since;
  drawState();
}

function tell(text) {
  byId("problem").hidden = !text;
  if (byId("problem").textContent !== text) byId("problem").textContent = text;
}
function drawState() {
  byId("state").textContent = `${t(paused ? "paused" : "live")}${reached && ` · ${reached}`}`;
  byId("pause").textContent = t(paused ? "go_on" : "pause");
}
async function keepAsking() {
  if (!paused && !document.hidden) await ask();
  setTimeout(keepAsking, EVERY);
}
byId("pause").addEventListener("click", () => {
  paused = !paused;
  drawState();
});
byId("kind").addEventListener("change", () => {
  asking++;
  newest = 0;
  latest.replaceChildren();
  ask();
});
document.addEventListener("lang", drawState);
keepAsking();
