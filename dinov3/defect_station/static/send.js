// What a page says to the server goes as JSON, which no other site's page can send; also if the page is closed meanwhile.
const send = (address, form) =>
  fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(form), keepalive: true });
document.getElementById("leave")?.addEventListener("click", async () => {
  await send("/session/end", {});
  location.reload();
});
