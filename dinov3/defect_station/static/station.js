// What the scripts of the station's own pages have in common.
const byId = (id) => document.getElementById(id);
const say = (key, values = {}) => t(key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
const timeNow = () => new Date().toLocaleTimeString(lang === "zh" ? "zh-CN" : "en-GB");
