// What a page does with the bar's `done` event: here it tells how many rows arrived, and offers the next step.
const imported = document.getElementById("imported");

document.querySelector("dramatiq-progress").addEventListener("done", (event) => {
  const rows = event.detail.result.imported;
  imported.querySelector("b").textContent = rows === 1 ? "1 row is" : `${rows.toLocaleString("en")} rows are`;
  imported.hidden = false;
});
