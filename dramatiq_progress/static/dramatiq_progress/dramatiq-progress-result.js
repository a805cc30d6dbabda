/**
 * The outcome of a message beyond the bar's own text: shows, links, follows or swaps in the result, or offers a retry.
 * dramatiq-progress.js loads it for a bar with one of these attributes. Reference: docs/bar.md.
 */

/** Called after the bar has drawn the final state. */
export function showOutcome(bar, view) {
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
  const url = bar.option("retry");
  const retry = url && allow(url, bar.option("origins"));
  if (!retry) return;
  const link = linkTo(retry, bar.texts.retry);
  const [, message] = bar.elements;
  if (message !== bar.parts?.[1]) return message?.append(" ", link);
  link.setAttribute("part", "action retry");
  bar.actions.append(link);
  removeWithState(bar, link);
}

/** The bar may switch to another message, which is "waiting" first. */
function removeWithState(bar, link) {
  const { state } = bar;
  const watch = new MutationObserver(() => {
    if (bar.state === state) return;
    link.remove();
    watch.disconnect();
  });
  watch.observe(bar, { attributeFilter: ["state"] });
}

function linkTo(href, text) {
  const link = document.createElement("a");
  link.setAttribute("part", "link");
  link.href = href;
  link.append(text);
  return link;
}

/** Returns the absolute URL if its origin is this one or one of `origins`, otherwise null. */
function allow(url, origins) {
  if (!URL.canParse(url, location.href)) return null;
  const { href, origin } = new URL(url, location.href);
  return /^https?:/.test(href) && [location.origin, ...`${origins}`.split(/[\s,]+/)].includes(origin) ? href : null;
}

function linkOf(result, origins) {
  const url = typeof result === "string" ? result : result?.url;
  return /^(\/|https?:)/i.test(url) ? allow(url, origins) : null;
}

function showResult(bar, result, shown = result) {
  const element = bar.elements[2];
  const handler = bar.option("onResult");
  if (handler) return handler.call(bar, element, result);
  const text = describe(shown, bar.texts);
  // The bar's own is that of the message, where a link may be.
  if (element && element === bar.parts?.[2]) return text && showInText(element, text);
  if (!element) return;
  element.textContent = text;
  element.hidden = !text;
}

function showInText(element, text) {
  const [link] = element.children;
  element.replaceChildren(...(link ? [link, ": "] : []), text);
}

function describe(result, texts) {
  if (typeof result === "number") return result.toLocaleString(texts.locale);
  if (typeof result === "boolean") return result ? texts.yes : texts.no;
  if (typeof result !== "object") return String(result ?? "");
  return Object.entries(result ?? {})
    .map(([key, value]) => [...(Array.isArray(result) ? [] : [key.replaceAll("_", " ")]), describe(value, texts)])
    .map((pair) => pair.join(": "))
    .join(", ");
}

async function swapIn(url, bar, view) {
  const nodes = await load(allow(url), bar).catch(() => null);
  const element = bar.elements[2];
  if (!bar.shows(view)) return;
  if (!nodes) showResult(bar, view.result);
  else if (element && element === bar.parts?.[2]) bar.replaceWith(...nodes);
  else element?.replaceChildren(...nodes);
}

async function load(url, bar) {
  if (!url) return null;
  // "same-origin" also refuses a redirect to another origin.
  const request = new Request(url, { mode: "same-origin", headers: { Accept: "text/html" } });
  const response = await bar.fetch(request);
  return response.ok ? parse(await response.text()) : null;
}

const rules = { createHTML: String };
let policy;

/** Turns text into markup. No other function does. */
function parse(html) {
  policy ??= self.trustedTypes?.createPolicy("dramatiq-progress", rules) ?? rules;
  return new DOMParser().parseFromString(policy.createHTML(html), "text/html").body.childNodes;
}
