// Fills the grid while the photos are resized: loads the page again for each change of the bar, and takes its new pictures.
const grid = document.getElementById("photos");
let shown;

document.querySelector("dramatiq-progress").addEventListener("progress", async ({ detail }) => {
  if (detail.parts?.done === shown) return;
  shown = detail.parts?.done;
  const response = await fetch(location.href);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  page.querySelectorAll("#photos > li").forEach((photo, index) => {
    if (!grid.children[index].firstElementChild) grid.children[index].replaceWith(photo);
  });
});
