// What a page does with the bar's `done` event: here it tells how many rows arrived, and offers the next step.
const imported = document.getElementById("imported");

document.querySelector("dramatiq-progress").addEventListener("done", (event) => {
  imported.querySelector("b").textContent = event.detail.result.imported.toLocaleString("en");
  imported.hidden = false;
});
