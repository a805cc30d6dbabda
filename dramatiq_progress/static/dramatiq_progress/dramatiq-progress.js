/**
 * <dramatiq-progress src="/progress/ID/">: the bar a person looks at, at the end of the flow.
 * JSON of one message comes in by polling; a bar, a line of text and the events `progress`, `done`, `failed` go out.
 * It draws what was reported and nothing else. Reference: docs/bar.md.
 */

/** Everything the bar can say, in one language; `locale` is the language of its numbers and durations. */
export const TEXTS = {
  locale: "en",
  label: "Progress",
  waiting: "Waiting for information…",
  "not-found": "There is nothing to show here",
  expired: "No longer available",
  denied: "Not available. You may have to sign in again.",
  offline: "Connection lost. Trying again…",
  enqueued: "Waiting in the queue",
  position: "Waiting in the queue, about {position} of {length} in line",
  delayed: "Scheduled",
  running: "Running",
  amount: "{current} of {total}",
  count: "{current} so far",
  remaining: "about {time} left",
  retryIn: "Failed; trying again in {time}",
  retryNow: "Failed; trying again now",
  attempt: "{text} (attempt {attempt})",
  attemptOf: "{text} (attempt {attempt} of {attempts})",
  lost: "No contact with the worker; the task will be taken up again",
  done: "Done",
  failed: "The task failed.",
  cancelled: "The task was cancelled.",
  skipped: "The task was skipped.",
  download: "Download",
  yes: "yes",
  no: "no",
};

const POLL_AFTER_SECONDS = 0.5;
const POLL_FASTEST_SECONDS = 0.1;
const POLL_MISSING_SECONDS = 30;
const WAIT_LONGEST_SECONDS = 3600;
const REQUEST_LIMIT_SECONDS = 10;
const FIRST_ANSWER_LIMIT_SECONDS = 120;
const BACK_OFF_FIRST_SECONDS = 1;
const BACK_OFF_LONGEST_SECONDS = 30;
const MISSING_STATUSES = [401, 403, 404, 410];
const DENIED_STATUSES = [401, 403];

const LIVE_STATES = ["enqueued", "delayed", "running", "retrying", "lost"];
const FINAL_STATES = ["done", "failed", "cancelled", "skipped"];
const CELERY_STATES = new Map([
  ["PENDING", "enqueued"],
  ["STARTED", "running"],
  ["PROGRESS", "running"],
  ["RETRY", "retrying"],
  ["SUCCESS", "done"],
  ["FAILURE", "failed"],
  ["REVOKED", "cancelled"],
  ["IGNORED", "skipped"],
]);
/** What passes by itself between two answers, and so is no news. */
const CLOCKS = ["elapsed", "rate", "eta", "retry_in", "poll_after"];

const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
// Not Date: a clock that is set while a job runs must not stop its bar.
const now = () => performance.now() / 1000;
const later = (seconds, act) => setTimeout(act, seconds * 1000);

// ---- Reading an answer ----

function isAnswer(answer) {
  return typeof answer?.complete === "boolean";
}

/** The same view of an answer, whether our own server wrote it or one that speaks celery-progress's keys. */
function readAnswer(answer) {
  const { current = 0, total = null, description = "" } = answer.progress ?? {};
  const state = readState(answer);
  const finished = FINAL_STATES.includes(state);
  return { ...answer, state, finished, current, total, description, percent: readPercent(answer.progress ?? {}) };
}

function readState({ state, complete, success, progress }) {
  if (LIVE_STATES.includes(state) || FINAL_STATES.includes(state)) return state;
  if (CELERY_STATES.has(state)) return CELERY_STATES.get(state);
  if (complete) return success ? "done" : "failed";
  return progress?.pending ? "enqueued" : "running";
}

function readPercent({ percent, current, total }) {
  if (percent === undefined && total > 0) percent = Math.floor((current / total) * 1000) / 10;
  return Number.isFinite(percent) ? clamp(percent, 0, 100) : null;
}

/** An answer as text without its clocks, to tell news from the mere passing of time. */
function newsOf(answer) {
  return JSON.stringify(answer, (key, value) => (CLOCKS.includes(key) ? undefined : value));
}

/** The result as an address that is safe to follow: http(s), of this very site. Else null. */
function linkOf(result) {
  const address = typeof result === "string" ? result : result?.url;
  // Without this, any sentence would be an address relative to the page.
  if (!/^(\/|https?:)/i.test(address) || !URL.canParse(address, location.href)) return null;
  const url = new URL(address, location.href);
  return url.origin === location.origin ? url.href : null;
}

// ---- Wording ----

const insert = (text, values) => text.replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place);
const formatNumber = (value, texts) => new Intl.NumberFormat(texts.locale).format(value);

function formatPercent(percent, texts) {
  // Rounded down: 99.9 % is not yet all of it.
  return new Intl.NumberFormat(texts.locale, { style: "percent" }).format(Math.floor(percent) / 100);
}

function formatDuration(seconds, texts) {
  const [size, unit] =
    seconds < 90 ? [1, "second"] : seconds < 5400 ? [60, "minute"] : seconds < 129600 ? [3600, "hour"] : [86400, "day"];
  const format = new Intl.NumberFormat(texts.locale, { style: "unit", unit, unitDisplay: "long" });
  return format.format(Math.ceil(seconds / size));
}

function describe(view, retryIn, texts) {
  if (view.state === "running") return describeRunning(view, texts);
  if (view.state === "retrying") return describeRetry(view, retryIn, texts);
  if (view.state === "enqueued" && view.queue_position != null && view.queue_length != null) {
    const [position, length] = [view.queue_position, view.queue_length].map((value) => formatNumber(value, texts));
    return insert(texts.position, { position, length });
  }
  return texts[view.state];
}

function describeRunning({ current, total, description }, texts) {
  return [describeAmount(current, total, texts), description].filter(Boolean).join(". ") || texts.running;
}

function describeAmount(current, total, texts) {
  if (total != null) return insert(texts.amount, { current: formatNumber(current, texts), total: formatNumber(total, texts) });
  return current ? insert(texts.count, { current: formatNumber(current, texts) }) : "";
}

function describeRetry({ attempt, retries_left: left }, retryIn, texts) {
  const text = retryIn > 0 ? insert(texts.retryIn, { time: formatDuration(retryIn, texts) }) : texts.retryNow;
  if (!attempt) return text;
  const values = { text, attempt: formatNumber(attempt + 1, texts) };
  // What is left includes the one that is coming.
  if (!left) return insert(texts.attempt, values);
  return insert(texts.attemptOf, { ...values, attempts: formatNumber(attempt + left, texts) });
}

/** A result as a person would write it: "imported: 20,000, skipped: 3". */
function describeResult(result, texts) {
  if (result == null) return "";
  if (typeof result === "number") return formatNumber(result, texts);
  if (typeof result === "boolean") return result ? texts.yes : texts.no;
  if (typeof result !== "object") return String(result);
  if (Array.isArray(result)) return result.map((item) => describeResult(item, texts)).join(", ");
  return Object.entries(result)
    .map(([key, value]) => `${key.replaceAll("_", " ")}: ${describeResult(value, texts)}`)
    .join(", ");
}

// ---- Asking ----

function readRetryAfter(response) {
  const header = response.headers.get("Retry-After") ?? 0;
  const seconds = Number.isNaN(Number(header)) ? (Date.parse(header) - Date.now()) / 1000 : Number(header);
  return clamp(seconds || 0, 0, WAIT_LONGEST_SECONDS);
}

/**
 * Asks as often as the answers say, while the page is visible, until it is stopped; after trouble ever more rarely.
 * It knows nothing of bars: `ask(signal)` gives a Response; the others hear what came of it.
 */
class Poller {
  #ask;
  #onAnswer;
  #onMissing;
  #onTrouble;
  #timer;
  #request = null;
  #listening = null;
  #failures = 0;
  #notBefore = 0;
  #heard = false;
  #missingSince = null;

  constructor({ ask, onAnswer, onMissing, onTrouble }) {
    this.#ask = ask;
    this.#onAnswer = onAnswer;
    this.#onMissing = onMissing;
    this.#onTrouble = onTrouble;
  }

  start() {
    this.stop();
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    document.addEventListener("visibilitychange", () => this.#wake(), { signal });
    window.addEventListener("online", () => this.#wake(), { signal });
    this.#wake();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#listening?.abort();
    this.#request?.abort();
    this.#request = null;
  }

  #wake() {
    if (!this.#request) this.#schedule(0);
  }

  #schedule(seconds) {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    this.#timer = later(Math.max(seconds, this.#notBefore - now()), () => this.#poll());
  }

  async #poll() {
    const request = new AbortController();
    this.#request = request;
    const limit = later(REQUEST_LIMIT_SECONDS, () => request.abort());
    const outcome = await this.#exchange(request.signal);
    clearTimeout(limit);
    if (this.#request !== request) return; // Stopped meanwhile: nobody wants this answer.
    this.#request = null;
    this.#handle(outcome);
  }

  async #exchange(signal) {
    try {
      const response = await this.#ask(signal);
      if (MISSING_STATUSES.includes(response.status)) return { missing: response.status };
      if (!response.ok) return { retryAfter: readRetryAfter(response) };
      const answer = await response.json();
      return isAnswer(answer) ? { answer } : {};
    } catch {
      return {}; // No network, no answer in time, or a page where JSON should be: all the same to a bar.
    }
  }

  /** The next poll is set before anybody hears of this one, so that a listener may stop it. */
  #handle({ answer, missing, retryAfter = 0 }) {
    this.#failures = answer || missing ? 0 : this.#failures + 1;
    if (answer) return this.#handleAnswer(answer);
    if (missing) return this.#handleMissing(DENIED_STATUSES.includes(missing));
    this.#notBefore = now() + retryAfter;
    this.#schedule(this.#backOff());
    this.#onTrouble();
  }

  #handleAnswer(answer) {
    this.#heard = true;
    this.#missingSince = null;
    const seconds = Number.isFinite(answer.poll_after) ? answer.poll_after : POLL_AFTER_SECONDS;
    this.#schedule(clamp(seconds, POLL_FASTEST_SECONDS, WAIT_LONGEST_SECONDS));
    this.#onAnswer(answer);
  }

  #handleMissing(denied) {
    this.#missingSince ??= now();
    const missingFor = now() - this.#missingSince;
    const waiting = !this.#heard && !denied && missingFor < FIRST_ANSWER_LIMIT_SECONDS;
    const rarely = denied || (!this.#heard && !waiting);
    // While there is hope, a tenth of the time already waited: whoever comes back is noticed in proportion.
    this.#schedule(rarely ? POLL_MISSING_SECONDS : clamp(missingFor / 10, POLL_AFTER_SECONDS, POLL_MISSING_SECONDS));
    this.#onMissing(this.#heard ? "expired" : waiting ? "waiting" : "not-found", denied);
  }

  /** Half of it by chance, so that a thousand bars do not come back to a restarted server all at once. */
  #backOff() {
    const longest = Math.min(BACK_OFF_FIRST_SECONDS * 2 ** (this.#failures - 1), BACK_OFF_LONGEST_SECONDS);
    return longest * (0.5 + Math.random() / 2);
  }
}

// ---- Drawing ----

function part(name, attributes = {}, children = []) {
  const element = document.createElement("div");
  element.setAttribute("part", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export class DramatiqProgress extends HTMLElement {
  static observedAttributes = ["src", "label", "aria-label"];

  #text = part("text");
  #remaining = part("remaining", { hidden: "" });
  #percent = part("percent", { hidden: "" });
  #fill = part("fill");
  #track = part("track", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, [this.#fill]);
  #note = part("note", { hidden: "" });
  #status = part("status", { role: "status" });
  #poller = null;
  #view = null;
  #news = "";
  #spoken = "";
  #retryAt = 0;
  #countdown;

  constructor() {
    super();
    const line = part("line", {}, [this.#text, this.#remaining, this.#percent]);
    this.attachShadow({ mode: "open" }).append(line, this.#track, this.#note, this.#status);
  }

  get src() {
    return this.getAttribute("src") ?? "";
  }

  set src(value) {
    this.setAttribute("src", value);
  }

  get state() {
    return this.getAttribute("state") ?? "waiting";
  }

  /** What the bar says; a subclass may say it otherwise. */
  get texts() {
    return TEXTS;
  }

  /** The request of one poll; a subclass may change or add to it. */
  request(signal) {
    return new Request(this.src, {
      signal,
      credentials: "same-origin",
      cache: "no-store",
      headers: { Accept: "application/json" },
    });
  }

  /** Sends a request; a subclass may send it another way. */
  fetch(request) {
    return fetch(request);
  }

  /** Goes to a result. Replaces this page: "Back" would else lead to a finished bar, which leads here again. */
  follow(address) {
    location.replace(address);
  }

  connectedCallback() {
    if (!this.#view?.finished) this.#start();
  }

  disconnectedCallback() {
    this.#poller?.stop();
    clearTimeout(this.#countdown);
  }

  attributeChangedCallback(name, before, after) {
    if (name !== "src") return this.#drawLabel();
    if (before === after) return;
    const isLive = this.#poller !== null && this.isConnected;
    this.#forget();
    if (isLive) this.#start();
  }

  #start() {
    this.#poller ??= new Poller({
      ask: (signal) => this.fetch(this.request(signal)),
      onAnswer: (answer) => this.#hear(answer),
      onMissing: (state, denied) => this.#miss(state, denied),
      onTrouble: () => this.#trouble(),
    });
    this.#drawNote("");
    // A copy of an element (Turbo keeps such) carries the attribute, but has heard nothing.
    this.#draw(this.#view ? this.state : "waiting");
    if (this.src) this.#poller.start();
  }

  #forget() {
    this.#poller?.stop();
    this.#poller = this.#view = null;
    this.#news = this.#spoken = "";
    this.removeAttribute("state");
    this.#drawNote("");
  }

  #hear(answer) {
    const view = readAnswer(answer);
    const news = newsOf(answer);
    const isNews = news !== this.#news;
    this.#view = view;
    this.#news = news;
    this.#retryAt = now() + (view.retry_in ?? 0);
    if (view.finished) this.#poller.stop();
    this.#drawNote("");
    this.#draw(view.state);
    if (isNews) this.#send("progress", answer);
    // A listener may have turned this element to another message.
    if (view.finished && this.#view === view) this.#finish(view, answer);
    this.#speak();
  }

  #miss(state, denied) {
    this.#drawNote("");
    this.#draw(state, denied ? this.texts.denied : this.texts[state]);
    this.#speak();
  }

  #trouble() {
    this.setAttribute("offline", "");
    this.#note.textContent = this.texts.offline;
    this.#note.hidden = false;
    this.#speak();
  }

  #send(type, detail, cancelable = false) {
    return this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, cancelable }));
  }

  #finish(view, answer) {
    const isDone = view.state === "done";
    const allowed = this.#send(isDone ? "done" : "failed", answer, true);
    if (!allowed || this.#view !== view) return;
    if (isDone) this.#useResult(view.result);
    else if (view.result && typeof view.result === "string") this.#drawText(view.result);
  }

  #useResult(result) {
    const [follows, downloads] = [this.hasAttribute("redirect"), this.hasAttribute("download")];
    const link = follows || downloads ? linkOf(result) : null;
    if (link && downloads) this.#drawLink(link);
    if (this.hasAttribute("show-result") || ((follows || downloads) && !link)) this.#drawResult(result, link);
    if (link && follows) this.follow(link);
  }

  #drawResult(result, link) {
    // An address that has become a link need not be read as well.
    const { url, ...rest } = link && typeof result === "object" ? result : {};
    this.#drawNote(describeResult(link ? rest : result, this.texts));
  }

  #drawLink(address) {
    const link = document.createElement("a");
    link.setAttribute("part", "link");
    link.href = address;
    link.download = "";
    link.textContent = this.getAttribute("download") || this.texts.download;
    this.#text.replaceChildren(link);
  }

  #draw(state, text = this.#describe(state)) {
    const percent = this.#view?.percent ?? null;
    if (this.getAttribute("state") !== state) this.setAttribute("state", state);
    this.toggleAttribute("indeterminate", percent === null);
    this.#drawLabel();
    this.#drawFill(percent);
    this.#drawRemaining(state);
    this.#drawText(text);
    this.#countDown(state);
  }

  #describe(state) {
    if (this.#view?.state !== state) return this.texts[state];
    return describe(this.#view, this.#retryAt - now(), this.texts);
  }

  #drawLabel() {
    const label = this.getAttribute("label") || this.getAttribute("aria-label") || this.texts.label;
    this.#track.setAttribute("aria-label", label);
  }

  #drawFill(percent) {
    const isKnown = percent !== null;
    this.#fill.style.setProperty("--percent", percent ?? 0);
    this.#percent.textContent = isKnown ? formatPercent(percent, this.texts) : "";
    this.#percent.hidden = !isKnown;
    if (isKnown) this.#track.setAttribute("aria-valuenow", percent);
    else this.#track.removeAttribute("aria-valuenow");
  }

  #drawRemaining(state) {
    const eta = state === "running" && this.#view.eta > 0 ? this.#view.eta : 0;
    this.#remaining.hidden = !eta;
    this.#remaining.textContent = eta ? insert(this.texts.remaining, { time: formatDuration(eta, this.texts) }) : "";
  }

  #drawText(text) {
    if (this.#text.textContent !== text) this.#text.textContent = text;
    this.#track.setAttribute("aria-valuetext", this.#saidAloud());
  }

  /** The line below the bar: a result, or nothing. An answer of any kind also means that the server is back. */
  #drawNote(text) {
    this.removeAttribute("offline");
    this.#note.textContent = text;
    this.#note.hidden = !text;
  }

  /** Between two answers only the seconds until the next attempt move. */
  #countDown(state) {
    clearTimeout(this.#countdown);
    const left = this.#retryAt - now();
    if (state === "retrying" && left > 0) this.#countdown = later(left % 1 || 1, () => this.#draw(state));
  }

  #saidAloud() {
    return [this.#percent.textContent, this.#text.textContent].filter(Boolean).join(", ");
  }

  /** Screen readers hear of each new state, each quarter and each trouble; of every report would be noise. */
  #speak() {
    const isOffline = this.hasAttribute("offline");
    const quarter = Math.floor((this.#view?.percent ?? 0) / 25);
    const occasion = [this.state, quarter, isOffline].join();
    if (occasion === this.#spoken || this.state === "waiting") return;
    this.#spoken = occasion;
    this.#status.textContent = isOffline ? this.texts.offline : [this.#saidAloud(), this.#note.textContent].join(" ").trim();
  }
}

// A page that loads the module twice, from two addresses, keeps the first.
if (!customElements.get("dramatiq-progress")) customElements.define("dramatiq-progress", DramatiqProgress);
