// The language is the reader's last choice, else the browser's. A page from a file may have no storage.
const TEXTS = JSON.parse(document.getElementById("texts").textContent);
let lang = (navigator.language || "en").startsWith("zh") ? "zh" : "en";
try { lang = localStorage.getItem("defect-report-lang") || lang; } catch (error) {}
function t(key) { return (TEXTS[key] || [key, key])[lang === "zh" ? 1 : 0]; }
function setLang(value) {
  lang = value;
  try { localStorage.setItem("defect-report-lang", lang); } catch (error) {}
  document.documentElement.dataset.lang = lang;
  document.documentElement.lang = lang === "zh" ? "zh-CN" : "en";
  document.getElementById("lang").textContent = lang === "zh" ? "English" : "中文";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const name of ["placeholder", "title", "aria-label"])
    for (const element of document.querySelectorAll(`[data-text-${name}]`))
      element.setAttribute(name, t(element.getAttribute(`data-text-${name}`)));
  document.dispatchEvent(new CustomEvent("lang"));
}
document.getElementById("lang").addEventListener("click", () => setLang(lang === "zh" ? "en" : "zh"));
