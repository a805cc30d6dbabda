/**
 * What becomes of a message that has ended, where the page wants more than the bar's own words: its result as text, as a
 * link, followed, or HTML of the page's own in its place, and a link to another try. Loaded by dramatiq-progress.js when
 * such a bar begins. Reference: docs/bar.md.
 */

/** A bar shows the end of a message: its `draw` has been called. */
export function end(bar, view) {
  if (view.state === "done") useResult(bar, view);
  else offerRetry(bar);
}

function useResult(bar, view) {
  const { result } = view;
  const [redirect, download, swap] = ["redirect", "download", "swap"].map((name) => bar.option(name));
  const isLinked = redirect || download;
  const link = isLinked && linkOf(result, bar.option("origins"));
  if (link && download) {
    const element = linkTo(link, download === true ? bar.texts.download : download);
    element.download = "";
    bar.elements[1]?.replaceChildren(element);
  }
  const { url, ...rest } = link && typeof result === "object" ? result : {};
  if (bar.option("showResult") || (isLinked && !link)) showResult(bar, result, link ? rest : result);
  if (swap) swapIn(swap, bar, view);
  if (link && redirect) bar.follow(link);
}

function offerRetry(bar) {
  const address = bar.option("retry");
  const retry = address && allow(address, bar.option("origins"));
  if (retry) bar.elements[1]?.append(" ", linkTo(retry, bar.texts.retry));
}

function linkTo(href, text) {
  const link = document.createElement("a");
  link.setAttribute("part", "link");
  link.href = href;
  link.append(text);
  return link;
}

/** An address of this origin or of one that the page lists, else null. */
function allow(address, origins) {
  if (!URL.canParse(address, location.href)) return null;
  const { href, origin } = new URL(address, location.href);
  return /^https?:/.test(href) && [location.origin, ...`${origins}`.split(/[\s,]+/)].includes(origin) ? href : null;
}

function linkOf(result, origins) {
  const address = typeof result === "string" ? result : result?.url;
  return /^(\/|https?:)/i.test(address) ? allow(address, origins) : null;
}

function showResult(bar, result, shown = result) {
  const place = bar.elements[2];
  const handler = bar.option("onResult");
  if (handler) return handler.call(bar, place, result);
  if (!place) return;
  place.textContent = describe(shown, bar.texts);
  place.hidden = !place.textContent;
}

function describe(result, texts) {
  if (typeof result === "number") return result.toLocaleString(texts.locale);
  if (typeof result === "boolean") return result ? texts.yes : texts.no;
  if (typeof result !== "object") return String(result ?? "");
  return Object.entries(result ?? {})
    .map(([key, value]) => [...(Array.isArray(result) ? [] : [key.replaceAll("_", " ")]), describe(value, texts)])
    .map((words) => words.join(": "))
    .join(", ");
}

async function swapIn(address, bar, view) {
  const nodes = await load(allow(address), bar).catch(() => null);
  const place = bar.elements[2];
  if (!bar.shows(view)) return;
  if (!nodes) showResult(bar, view.result);
  else if (place && place === bar.parts?.[2]) bar.replaceWith(...nodes);
  else place?.replaceChildren(...nodes);
}

async function load(address, bar) {
  if (!address) return null;
  // A detour to another origin is refused too.
  const request = new Request(address, { mode: "same-origin", headers: { Accept: "text/html" } });
  const response = await bar.fetch(request);
  return response.ok ? parse(await response.text()) : null;
}

const rules = { createHTML: String };
let policy;

/** The one place where text becomes markup. */
function parse(html) {
  policy ??= self.trustedTypes?.createPolicy("dramatiq-progress", rules) ?? rules;
  return new DOMParser().parseFromString(policy.createHTML(html), "text/html").body.childNodes;
}
