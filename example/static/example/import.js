// Handles the bar's `done` event: loads the table again, which has the new import.
document.querySelector("dramatiq-progress").addEventListener("done", async () => {
  const response = await fetch(location.href);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  document.getElementById("imports").replaceWith(page.getElementById("imports"));
});
