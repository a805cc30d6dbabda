/**
 * <dramatiq-progress src="/progress/ID/">: the bar, at the end of the flow. JSON comes in by polling; a bar, a line of
 * text and the events `progress`, `done`, `failed` go out. Reference: docs/bar.md.
 */

/** All that the bar says; `locale` is the language of its numbers and durations. */
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
const LIST_LONGEST = 100;
const FIRST_ANSWER_LIMIT_SECONDS = 120;
const BACK_OFF_FIRST_SECONDS = 1;
const BACK_OFF_LONGEST_SECONDS = 30;
/** When to poll what a stream tells. */
const STREAM_SILENCE_SECONDS = 20;
const MISSING_STATUSES = [404, 410];
const DENIED_STATUSES = [401, 403];
/** What follows the list's address in a message's own. */
const LISTED = /^([\w-]{1,64})\/$/;

const LIVE_STATES = ["enqueued", "delayed", "running", "retrying", "lost"];
const FINAL_STATES = ["done", "failed", "cancelled", "skipped"];
const CELERY_STATES = {
  __proto__: null,
  PENDING: "enqueued",
  STARTED: "running",
  PROGRESS: "running",
  RETRY: "retrying",
  SUCCESS: "done",
  FAILURE: "failed",
  REVOKED: "cancelled",
  IGNORED: "skipped",
};
const CLOCKS = ["elapsed", "rate", "eta", "retry_in", "poll_after"];

const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
// Not Date: a clock may be set while a job runs.
const now = () => performance.now() / 1000;
const later = (seconds, act) => setTimeout(act, seconds * 1000);

// ---- Reading an answer ----

function isAnswer(answer) {
  return typeof answer?.complete === "boolean";
}

/** One view of an answer, of our server or of one that speaks celery-progress's keys. */
function readAnswer(answer) {
  const { current = 0, total = null, description = "" } = answer.progress ?? {};
  const state = readState(answer);
  const finished = FINAL_STATES.includes(state);
  return { ...answer, state, finished, current, total, description, percent: readPercent(answer.progress ?? {}) };
}

function readState({ state, complete, success, progress }) {
  if (LIVE_STATES.includes(state) || FINAL_STATES.includes(state)) return state;
  if (CELERY_STATES[state]) return CELERY_STATES[state];
  if (complete) return success ? "done" : "failed";
  return progress?.pending ? "enqueued" : "running";
}

function readPercent({ percent, current, total }) {
  if (percent === undefined && total > 0) percent = Math.floor((current / total) * 1000) / 10;
  return Number.isFinite(percent) ? clamp(percent, 0, 100) : null;
}

/** An answer as text, without what passes by itself. */
function newsOf(answer) {
  return JSON.stringify(answer, (key, value) => (CLOCKS.includes(key) ? undefined : value));
}

/** The result as an address of this very site, or null. */
function linkOf(result) {
  const address = typeof result === "string" ? result : result?.url;
  // Else any sentence would be an address relative to the page.
  if (!/^(\/|https?:)/i.test(address) || !URL.canParse(address, location.href)) return null;
  const url = new URL(address, location.href);
  return url.origin === location.origin ? url.href : null;
}

// ---- Wording ----

const insert = (text, values) => text.replace(/\{(\w+)\}/g, (place, name) => values[name] ?? place);
const formatNumber = (value, texts) => new Intl.NumberFormat(texts.locale).format(value);

function formatPercent(percent, texts) {
  // Rounded down: 99.9 % is not all.
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

/** As a person would write it: "imported: 20,000, skipped: 3". */
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

function readRetryAfter({ headers }) {
  const value = headers.get("Retry-After");
  // By the server's clock: the visitor's may be wrong.
  const today = Date.parse(headers.get("Date")) || Date.now();
  return clamp(Number(value) || (Date.parse(value) - today) / 1000 || 0, 0, WAIT_LONGEST_SECONDS);
}

/** What a 304 says: the last answer, with its clocks gone on. */
function repeat({ answer, heardAt }, pollAfter) {
  const goOn = (seconds) => seconds && Math.max(0, seconds - (now() - heardAt));
  return { ...answer, eta: goOn(answer.eta), retry_in: goOn(answer.retry_in), poll_after: pollAfter || answer.poll_after };
}

/**
 * Asks a server about messages, all that are due in one request, while the page is visible. Bars with the same `list`
 * share one, from the first to the last; a bar without has its own.
 */
class Poller {
  static #pollers = new Map();
  #list;
  #most = LIST_LONGEST;
  #messages = new Map();
  #listening = new AbortController();
  #request = null;
  #timer;
  #backOff = 0;
  #resumeAt = 0;
  #notBefore = 0;
  #stream;

  /** Asks for a bar from now on; gives the function that ends it. */
  static watch(bar) {
    const { src, list, kind } = bar;
    const id = list && src.startsWith(list) && LISTED.exec(src.slice(list.length))?.[1];
    const name = id ? kind + list : bar;
    const poller = Poller.#pollers.get(name) ?? new Poller(list);
    Poller.#pollers.set(name, poller);
    poller.#add(bar, id);
    return () => poller.#remove(bar) && Poller.#pollers.delete(name);
  }

  constructor(list) {
    this.#list = list;
    const { signal } = this.#listening;
    // `persisted` is false when the page is first shown.
    const wake = ({ persisted }) => persisted === false || this.#wake();
    for (const type of ["visibilitychange", "pageshow", "online", "offline"]) {
      addEventListener(type, wake, { signal, capture: true });
    }
  }

  #add(bar, id) {
    const { src } = bar;
    const message = this.#messages.get(src) ?? { src, id, bars: new Set(), pollAfter: 0 };
    this.#messages.set(src, message);
    message.bars.add(bar);
    message.due = this.#resumeAt;
    this.#schedule();
    if (id && bar.stream) this.#useStream(bar);
  }

  /** Whether it was the last. */
  #remove(bar) {
    const message = this.#messages.get(bar.src);
    if (!message?.bars.delete(bar)) return false;
    if (!message.bars.size) this.#messages.delete(bar.src);
    if (this.#messages.size) return false;
    this.#listening.abort();
    this.#stop();
    this.#tellStream("close");
    return true;
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#request?.abort();
    this.#request = null;
  }

  #wake() {
    this.#tellStream(document.hidden ? "close" : "open");
    if (document.hidden) return clearTimeout(this.#timer);
    this.#stop();
    this.#backOff = 0;
    this.#resume(0);
  }

  #resume(seconds) {
    this.#resumeAt = now() + seconds;
    for (const message of this.#messages.values()) message.due = this.#resumeAt;
    this.#schedule();
  }

  /** The most urgent first. */
  #line() {
    return [...this.#messages.values()].sort((one, other) => one.due - other.due);
  }

  #schedule() {
    clearTimeout(this.#timer);
    if (document.hidden || this.#request || !this.#messages.size) return;
    const at = Math.max(this.#line()[0].due, this.#notBefore, now());
    this.#timer = later(at - now(), () => this.#poll());
  }

  async #poll() {
    const line = this.#line();
    const at = Math.max(line[0].due, now()); // Timers may be early by a fraction.
    // What is nearly due goes with a request that is made anyway.
    const batch = line.filter(({ due, pollAfter }) => due - pollAfter / 8 <= at).slice(0, this.#most);
    const request = new AbortController();
    this.#request = request;
    const limit = later(REQUEST_LIMIT_SECONDS, () => request.abort());
    // No network, no answer in time, a page where JSON should be: all the same.
    const outcome = await this.#exchange(batch, request.signal).catch(() => ({}));
    clearTimeout(limit);
    if (this.#request !== request) return; // Stopped meanwhile: nobody wants this answer.
    this.#request = null;
    // What the stream has told meanwhile is newer.
    if (outcome.answerTo) this.#handle(batch.filter(({ heardAt }) => !(heardAt > at)), outcome);
    else this.#fail(outcome.retryAfter ?? 0);
  }

  /** Gives `answerTo(message)` and what goes with it; nothing of it after trouble. */
  async #exchange(batch, signal) {
    const [{ src, bars, version }] = batch;
    const [bar] = bars;
    const isList = batch.length > 1;
    // Sorted: the same messages have the same ETag.
    const url = isList ? `${this.#list}?id=${batch.map(({ id }) => id).sort().join("&id=")}` : src;
    // A 304 means something to messages that all heard that very answer last.
    const known = version?.url === url && batch.every((message) => message.version === version);
    const response = await bar.ask(signal, url, known && version.etag);
    const { status, headers } = response;
    const pollAfter = Number(headers.get("Poll-After"));
    if (known && status === 304) return { version, answerTo: (message) => repeat(message, pollAfter) };
    const denied = DENIED_STATUSES.includes(status);
    if (denied || (!isList && MISSING_STATUSES.includes(status))) return { denied, answerTo: () => null };
    // No list, or none for so long an address: from now on one by one.
    if (isList && status >= 400 && status < 429) this.#most = 1;
    if (!response.ok) return { retryAfter: readRetryAfter(response) };
    const answer = await response.json();
    const answers = isList ? answer.messages : [answer];
    if (!answers.every(isAnswer)) return {};
    const answerTo = ({ id }) => (isList ? answers.find((each) => each.id === id) : answer);
    return { version: { url, etag: headers.get("ETag") }, answerTo };
  }

  /** The next poll is set before anybody hears of this one, so that a listener may stop it. */
  #handle(batch, { answerTo, version, denied, told = 0 }) {
    this.#backOff = 0;
    for (const message of batch) {
      const answer = answerTo(message);
      // The stream is held back.
      if (message.told > told && answer && newsOf(answer) !== newsOf(message.answer)) this.#tellStream("leave");
      message.pollAfter = answer ? this.#take(message, answer, version) : this.#miss(message, denied);
      if (told) message.pollAfter = told;
      message.told = told;
    }
    // The quickest first, for the slower ones to fall into step with.
    batch.sort((one, other) => one.pollAfter - other.pollAfter);
    for (const message of batch) message.due = this.#join(message.pollAfter);
    this.#schedule();
    for (const { bars, answer, isOver } of batch) {
      for (const bar of [...bars]) {
        if (!bars.has(bar)) continue;
        if (answer) bar.onAnswer(answer);
        else bar.onMissing(isOver, denied);
      }
    }
  }

  /** When to ask after so many seconds: in the second half of them with others, if any are due. */
  #join(seconds) {
    const last = now() + seconds;
    const dues = this.#line().map(({ due }) => due);
    return dues.findLast((due) => due <= last && due >= last - seconds / 2) ?? last;
  }

  #take(message, answer, version) {
    Object.assign(message, { answer, version, heardAt: now(), missingSince: null });
    const seconds = Number.isFinite(answer.poll_after) ? answer.poll_after : POLL_AFTER_SECONDS;
    return clamp(seconds, POLL_FASTEST_SECONDS, WAIT_LONGEST_SECONDS);
  }

  #miss(message, denied) {
    message.answer = message.version = null;
    message.missingSince ??= now();
    const missingFor = now() - message.missingSince;
    message.isOver = denied || missingFor >= FIRST_ANSWER_LIMIT_SECONDS;
    return message.isOver ? POLL_MISSING_SECONDS : Math.max(missingFor / 10, POLL_AFTER_SECONDS);
  }

  /** By chance, so that a thousand pages do not come back all at once. */
  #fail(retryAfter) {
    this.#backOff = clamp(this.#backOff * 2, BACK_OFF_FIRST_SECONDS, BACK_OFF_LONGEST_SECONDS);
    this.#notBefore = now() + retryAfter;
    const chance = Math.random() / 2;
    this.#resume(retryAfter ? retryAfter + chance : this.#backOff * (1 - chance));
    for (const { bars } of this.#line()) for (const bar of bars) bar.onTrouble();
  }

  // The stream has a module of its own, and only saves polls.

  #useStream({ stream, module }) {
    const hear = (answer) => this.#hear(answer);
    const ids = () => [...this.#messages.values()].flatMap(({ id }) => id || []).slice(0, LIST_LONGEST);
    const poll = () => this.#resume(Math.random());
    this.#stream ??= import(module).then(({ Stream }) => new Stream(stream, { ids, hear, poll }));
    this.#tellStream("open");
  }

  #tellStream(what) {
    this.#stream?.then((stream) => stream[what]()).catch(() => {});
  }

  /** False where a poll has overtaken the stream. */
  #hear(answer) {
    const message = this.#messages.get(`${this.#list}${answer.id}/`);
    if (answer.version < message?.answer?.version) return false;
    if (message) this.#handle([message], { answerTo: () => answer, told: STREAM_SILENCE_SECONDS });
    return true;
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
  static observedAttributes = ["src", "list", "label", "aria-label"];

  #text = part("text");
  #remaining = part("remaining", { hidden: "" });
  #percent = part("percent", { hidden: "" });
  #fill = part("fill");
  #track = part("track", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, [this.#fill]);
  #note = part("note", { hidden: "" });
  #status = part("status", { role: "status" });
  #live = false;
  #leave = () => {};
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

  /** The request of one poll, also for all bars of the list; a subclass may change it. */
  request(signal, url = this.src) {
    return new Request(url, {
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

  /** Goes to a result. Replaces this page, since "Back" would lead to a bar that leads here again. */
  follow(address) {
    location.replace(address);
  }

  connectedCallback() {
    this.#live = true;
    this.#start();
  }

  disconnectedCallback() {
    this.#live = false;
    this.#leave();
    clearTimeout(this.#countdown);
  }

  attributeChangedCallback(name, before, after) {
    if (name !== "src" && name !== "list") return this.#drawLabel();
    if (before === after) return;
    this.#leave();
    if (name === "src") this.#forget();
    if (this.#live) this.#start();
  }

  #start() {
    if (this.#view?.finished) return;
    this.#drawNote("");
    // A copy of an element (Turbo keeps such) has a state, but has heard nothing.
    this.#draw(this.#view ? this.state : "waiting");
    if (!this.src) return;
    this.#leave = Poller.watch({
      src: this.src,
      list: this.getAttribute("list"),
      kind: this.localName, // of one class, and so of one way to ask
      stream: this.getAttribute("transport") !== "poll" && this.getAttribute("stream"),
      module: this.getAttribute("stream-module") ?? "./dramatiq-progress-stream.js",
      ask: (signal, url, etag) => this.#ask(this.request(signal, url), etag),
      onAnswer: (answer) => this.#hear(answer),
      onMissing: (isOver, denied) => this.#miss(isOver, denied),
      onTrouble: () => this.#trouble(),
    });
  }

  #ask(request, etag) {
    if (etag) request.headers.set("If-None-Match", etag);
    return this.fetch(request);
  }

  #forget() {
    this.#view = null;
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
    if (view.finished) this.#leave();
    this.#drawNote("");
    this.#draw(view.state);
    if (isNews) this.#send("progress", answer);
    // A listener may have turned this element to another message.
    if (view.finished && this.#view === view) this.#finish(view, answer);
    this.#speak();
  }

  #miss(isOver, denied) {
    const state = this.#view ? "expired" : isOver ? "not-found" : "waiting";
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

  /** An answer of any kind also means that the server is back. */
  #drawNote(text) {
    this.removeAttribute("offline");
    this.#note.textContent = text;
    this.#note.hidden = !text;
  }

  #countDown(state) {
    clearTimeout(this.#countdown);
    const left = this.#retryAt - now();
    if (state === "retrying" && left > 0) this.#countdown = later(left % 1 || 1, () => this.#draw(state));
  }

  #saidAloud() {
    return [this.#percent.textContent, this.#text.textContent].filter(Boolean).join(", ");
  }

  /** For screen readers; every report would be noise. */
  #speak() {
    const isOffline = this.hasAttribute("offline");
    const quarter = Math.floor((this.#view?.percent ?? 0) / 25);
    const occasion = [this.state, quarter, isOffline].join();
    if (occasion === this.#spoken || this.state === "waiting") return;
    this.#spoken = occasion;
    this.#status.textContent = isOffline ? this.texts.offline : [this.#saidAloud(), this.#note.textContent].join(" ").trim();
  }
}

// Loaded from two addresses, the first stays.
if (!customElements.get("dramatiq-progress")) customElements.define("dramatiq-progress", DramatiqProgress);
