// Shows what the page knows about its bar: when it changed last, and what watching it costs.
const facts = document.getElementById("facts");
const [changed, requests, rate, elapsed] = facts.querySelectorAll("dd");
const bar = document.querySelector("dramatiq-progress");
let changedAt = performance.now();
let answer = {};

function show() {
  const seconds = (performance.now() - changedAt) / 1000;
  const polls = performance.getEntriesByType("resource").filter(({ name }) => new URL(name).pathname.startsWith("/progress/"));
  changed.textContent = `${seconds.toFixed(1)} s ago`;
  requests.textContent = polls.length;
  // On average. The answer's own `rate` is null, since the two steps count different things: rows checked, rows saved.
  const isSaving = answer.step?.index === 2 && answer.elapsed > 0;
  rate.textContent = isSaving ? Math.round(answer.progress.current / answer.elapsed).toLocaleString("en") : "–";
  elapsed.textContent = answer.elapsed == null ? "–" : `${Math.round(answer.elapsed + (answer.complete ? 0 : seconds))} s`;
  facts.hidden = false;
}

const timer = setInterval(show, 500);

bar.addEventListener("progress", ({ detail }) => {
  answer = detail;
  changedAt = performance.now();
  show();
  if (answer.complete) clearInterval(timer);
});
