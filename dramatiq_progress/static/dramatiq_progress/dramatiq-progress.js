/** The bar: JSON comes in, drawings and events go out. Reference: docs/bar.md. */

export const TEXTS = {
  locale: "en",
  label: "Progress",
  waiting: "Waiting for information…",
  "not-found": "There is nothing to show here",
  expired: "No longer available. You may have to sign in again.",
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
  lost: "No contact with the worker; the task may be taken up again",
  done: "Done",
  failed: "The task failed.",
  cancelled: "The task was cancelled.",
  skipped: "The task was skipped.",
  download: "Download",
  retry: "Try again",
  yes: "yes",
  no: "no",
  // The server's English, and ours.
  results: [],
};

const ENGLISH = { ...TEXTS };
let told;

/** From {% dramatiq_progress_script %}. Turbo may bring another, a page may change TEXTS. */
function readTexts() {
  const { content } = document.querySelector("meta[name=dramatiq-progress-texts]") ?? {};
  if (content === told) return;
  for (const name in TEXTS) delete TEXTS[name];
  Object.assign(TEXTS, ENGLISH, JSON.parse((told = content) ?? "{}"));
}

readTexts();

const POLL_AFTER_SECONDS = 0.5;
const POLL_FASTEST_SECONDS = 0.1;
const POLL_MISSING_SECONDS = 30;
const WAIT_LONGEST_SECONDS = 3600;
const REQUEST_LIMIT_SECONDS = 10;
const LIST_LONGEST = 100;
const FIRST_ANSWER_LIMIT_SECONDS = 120;
const BACK_OFF_FIRST_SECONDS = 1;
const BACK_OFF_LONGEST_SECONDS = 30;
const STREAM_SILENCE_SECONDS = 20;
const MISSING_STATUSES = [404, 410];
const DENIED_STATUSES = [401, 403];
const LISTED = /^([\w-]{1,64})\/$/;

const FINAL_STATES = ["done", "failed", "cancelled", "skipped"];
const STATES = ["enqueued", "delayed", "running", "retrying", "lost", ...FINAL_STATES];
const CELERY_STATES = {
  __proto__: null,
  PENDING: "enqueued",
  RETRY: "retrying",
  REVOKED: "cancelled",
  IGNORED: "skipped",
};

const BAR_COLORS = { progress: "#2563eb", success: "#15803d", error: "#dc2626", ignored: "#6b7280" };
const COLOR_NAMES = { done: "success", failed: "error", retrying: "error", cancelled: "ignored", skipped: "ignored" };
const ENDINGS = ["showResult", "redirect", "download", "swap", "retry"];
const LOOKS = ["state", "indeterminate", "offline"];
const CLOCKS = ["elapsed", "rate", "eta", "retry_in", "poll_after"];

const clamp = (value, least, most) => Math.min(most, Math.max(least, value));
// Not Date: a clock may be set while a job runs.
const now = () => performance.now() / 1000;
const later = (seconds, act) => setTimeout(act, seconds * 1000);

const isAnswer = (answer) => typeof answer?.complete === "boolean";

function readAnswer(answer) {
  const { current = 0, total = null, description = "" } = answer.progress ?? {};
  const state = readState(answer);
  const finished = FINAL_STATES.includes(state);
  return { ...answer, state, finished, current, total, description, percent: readPercent(answer.progress ?? {}) };
}

function readState({ state, complete, success, progress }) {
  if (STATES.includes(state)) return state;
  if (CELERY_STATES[state]) return CELERY_STATES[state];
  if (complete) return success ? "done" : "failed";
  return progress?.pending ? "enqueued" : "running";
}

function readPercent({ percent, current, total }) {
  if (percent === undefined && total > 0) percent = Math.floor((current / total) * 1000) / 10;
  return Number.isFinite(percent) ? clamp(percent, 0, 100) : null;
}

function newsOf(answer) {
  return JSON.stringify(answer, (key, value) => (CLOCKS.includes(key) ? undefined : value));
}

const formatNumber = (value, texts, options) => value.toLocaleString(texts.locale, options);

function say(texts, name, values) {
  return texts[name].replace(/\{(\w+)\}/g, (place, key) => {
    const value = values[key] ?? place;
    return typeof value === "number" ? formatNumber(value, texts) : value;
  });
}

function formatDuration(seconds, texts) {
  const [size, unit] =
    seconds < 90 ? [1, "second"] : seconds < 5400 ? [60, "minute"] : seconds < 129600 ? [3600, "hour"] : [86400, "day"];
  return formatNumber(Math.ceil(seconds / size), texts, { style: "unit", unit, unitDisplay: "long" });
}

function describe({ state, queue_position: position, queue_length: length, current, total, description }, texts) {
  if (state === "enqueued" && position != null && length != null) return say(texts, "position", { position, length });
  if (state !== "running") return texts[state];
  const amount = total == null ? current && say(texts, "count", { current }) : say(texts, "amount", { current, total });
  return [amount, description].filter(Boolean).join(". ") || texts.running;
}

function describeRetry({ attempt, retries_left: left }, retryIn, texts) {
  const text = retryIn > 0 ? say(texts, "retryIn", { time: formatDuration(retryIn, texts) }) : texts.retryNow;
  if (!attempt) return text;
  return say(texts, left ? "attemptOf" : "attempt", { text, attempt: attempt + 1, attempts: attempt + left });
}

function readRetryAfter({ headers }) {
  const value = headers.get("Retry-After");
  // By the server's clock: the visitor's may be wrong.
  const today = Date.parse(headers.get("Date")) || Date.now();
  return clamp(Number(value) || (Date.parse(value) - today) / 1000 || 0, 0, WAIT_LONGEST_SECONDS);
}

function repeat({ answer, heardAt }, pollAfter) {
  const goOn = (seconds) => seconds && Math.max(0, seconds - (now() - heardAt));
  return { ...answer, eta: goOn(answer.eta), retry_in: goOn(answer.retry_in), poll_after: pollAfter || answer.poll_after };
}

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

  #remove(bar) {
    const message = this.#messages.get(bar.src);
    if (!message?.bars.delete(bar)) return false;
    if (!message.bars.size) this.#messages.delete(bar.src);
    if (this.#messages.size) return this.#schedule();
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
    for (const message of this.#messages.values()) message.due = this.#resumeAt + (message.told = 0);
    this.#schedule();
  }

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
    const at = Math.max(line[0].due, now());
    const batch = line.filter(({ due, pollAfter }) => due - pollAfter / 8 <= at).slice(0, this.#most);
    const request = new AbortController();
    this.#request = request;
    const limit = later(REQUEST_LIMIT_SECONDS, () => request.abort());
    const outcome = await this.#exchange(batch, request.signal).catch(() => ({}));
    clearTimeout(limit);
    if (this.#request !== request) return;
    this.#request = null;
    // What the stream has told meanwhile is newer.
    if (outcome.answerTo) this.#handle(batch.filter(({ heardAt }) => !(heardAt > at)), outcome);
    else this.#fail(outcome.response);
  }

  async #exchange(batch, signal) {
    const [{ src, bars, version }] = batch;
    const [bar] = bars;
    const isList = batch.length > 1;
    const url = isList ? `${this.#list}?id=${batch.map(({ id }) => id).sort().join("&id=")}` : src;
    // A 304 is for messages that all heard that very answer last.
    const known = version?.url === url && batch.every((message) => message.version === version);
    const response = await bar.ask(signal, url, known && version.etag);
    const { status, headers } = response;
    const pollAfter = Number(headers.get("Poll-After"));
    if (known && status === 304) return { version, answerTo: (message) => repeat(message, pollAfter) };
    const denied = DENIED_STATUSES.includes(status);
    if (denied || (!isList && MISSING_STATUSES.includes(status))) return { response, denied, answerTo: () => null };
    if (isList && status >= 400 && status < 429) this.#most = 1;
    const answer = response.ok && (await response.json().catch(() => null));
    const answers = isList ? answer?.messages : [answer];
    if (!answers?.every(isAnswer)) return { response };
    const answerTo = ({ id }) => (isList ? answers.find((each) => each.id === id) : answer);
    return { version: { url, etag: headers.get("ETag") }, answerTo };
  }

  /** Sets the next poll first, so that a listener may stop it. */
  #handle(batch, { answerTo, version, denied, response, told = 0 }) {
    this.#backOff = 0;
    for (const message of batch) {
      const answer = answerTo(message);
      if (message.told > told && answer && newsOf(answer) !== newsOf(message.answer)) this.#tellStream("leave");
      message.pollAfter = answer ? this.#take(message, answer, version) : this.#miss(message, denied);
      if (told) message.pollAfter = told;
      message.told = told;
    }
    batch.sort((one, other) => one.pollAfter - other.pollAfter);
    for (const message of batch) message.due = this.#join(message.pollAfter);
    this.#schedule();
    for (const { bars, answer, isOver } of batch) {
      for (const bar of [...bars]) {
        if (!bars.has(bar)) continue;
        if (answer) bar.onAnswer(answer);
        else bar.onMissing(isOver, denied, response);
      }
    }
  }

  #join(seconds) {
    const last = now() + seconds;
    const dues = this.#line().map(({ due }) => due);
    return dues.findLast((due) => due <= last && due >= last - seconds / 2) ?? last;
  }

  #take(message, answer, version) {
    Object.assign(message, { answer, version, heardAt: now(), missingSince: null });
    const seconds = Number.isFinite(answer.poll_after) ? answer.poll_after : POLL_AFTER_SECONDS;
    const wanted = [...message.bars].map(({ pollSeconds }) => pollSeconds || seconds);
    return clamp(Math.min(...wanted), POLL_FASTEST_SECONDS, WAIT_LONGEST_SECONDS);
  }

  #miss(message, denied) {
    message.answer = message.version = null;
    message.missingSince ??= now();
    const missingFor = now() - message.missingSince;
    message.isOver = denied || missingFor >= FIRST_ANSWER_LIMIT_SECONDS;
    return message.isOver ? POLL_MISSING_SECONDS : Math.max(missingFor / 10, POLL_AFTER_SECONDS);
  }

  #fail(response) {
    const retryAfter = response ? readRetryAfter(response) : 0;
    this.#backOff = clamp(this.#backOff * 2, BACK_OFF_FIRST_SECONDS, BACK_OFF_LONGEST_SECONDS);
    this.#notBefore = now() + retryAfter;
    const chance = Math.random() / 2;
    this.#resume(retryAfter ? retryAfter + chance : this.#backOff * (1 - chance));
    for (const { bars } of this.#line()) for (const bar of [...bars]) if (bars.has(bar)) bar.onTrouble(response);
  }

  #useStream({ stream, module }) {
    const hear = (answer) => this.#hear(answer);
    const ids = () => [...this.#messages.values()].flatMap(({ id }) => id || []).slice(0, LIST_LONGEST);
    const poll = () => this.#resume(Math.random());
    this.#stream ??= import(module).then(({ Stream }) => new Stream(stream, { ids, hear, poll }));
    this.#tellStream(document.hidden ? "close" : "open");
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

function part(name, attributes = {}, children = []) {
  const element = document.createElement("div");
  for (const [key, value] of Object.entries({ part: name, ...attributes })) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Weaker than the page's stylesheet, where that arrives.
const plain = new CSSStyleSheet();
plain.replaceSync(`
  [part=track] { height: 8px; background: #8884 }
  [part=fill] { height: 8px; background: #2563eb }
  [part=status] { position: fixed; clip-path: inset(50%) }
`);

function show(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

const Bar = (Base) => class extends Base {
  state = "waiting";
  #leave = () => {};
  #end;
  #isOn = false;
  #src;
  #view = null;
  #news;
  #retryAt;
  #countdown;

  get elements() {
    return ["progressBar", "progressBarMessage", "result"].map((name, index) => {
      const id = this.option(index < 2 ? `${name}Id` : "resultElementId");
      return this.option(`${name}Element`) || document.getElementById(id) || this.parts?.[index];
    });
  }

  request(signal, url = this.src) {
    return new Request(url, { signal, cache: "no-store", headers: { Accept: "application/json" } });
  }

  fetch(request) {
    return fetch(request);
  }

  // "Back" would lead to a bar that leads here again.
  follow(address) {
    location.replace(address);
  }

  start() {
    this.stop();
    this.#isOn = true;
    readTexts();
    if (this.#src !== this.src) this.#view = this.#news = null;
    if (this.#view?.finished) return;
    this.#src = this.src;
    this.drawTrouble("");
    this.#draw(this.#view ? this.state : "waiting");
    if (!this.src) return;
    this.#loadEnd().catch(() => {});
    this.#leave = Poller.watch({
      src: this.src,
      list: this.option("list"),
      kind: this.localName,
      pollSeconds: parseInt(this.option("pollInterval")) / 1000,
      stream: this.option("transport") !== "poll" && this.option("stream"),
      module: this.option("streamModule") || "./dramatiq-progress-stream.js",
      ask: (signal, url, etag) => {
        const request = this.request(signal, url);
        if (etag) request.headers.set("If-None-Match", etag);
        return this.fetch(request);
      },
      onAnswer: async (answer) => this.#hear(answer),
      onMissing: async (isOver, denied, response) => this.#miss(isOver, denied, response),
      onTrouble: async (response) => this.#trouble(response),
    });
  }

  restart() {
    if (this.#isOn) this.start();
  }

  stop() {
    this.#isOn = false;
    this.#leave();
    clearTimeout(this.#countdown);
  }

  /** Not, where a listener has stopped or turned it. */
  shows(view) {
    return this.#isOn && this.#view === view;
  }

  #hear(answer) {
    const view = readAnswer(answer);
    const news = newsOf(answer);
    const isNews = news !== this.#news;
    this.#view = view;
    this.#news = news;
    this.#retryAt = now() + (view.retry_in ?? 0);
    if (view.finished) this.#leave();
    this.drawTrouble("");
    this.#draw(view.state);
    this.#offerCancel(answer);
    if (isNews) this.#send("progress", answer);
    if (view.finished && this.shows(view)) this.#finish(view, answer);
  }

  #miss(isOver, denied, response) {
    const state = this.#view ? "expired" : isOver ? "not-found" : "waiting";
    this.drawTrouble("");
    this.#offerCancel(null);
    this.#draw(state, this.texts[denied ? "denied" : state], response);
  }

  #trouble(response) {
    if (!this.#send("trouble", { response })) return;
    const text = this.texts.offline;
    const name = response?.ok ? "onDataError" : response ? "onHttpError" : "onNetworkError";
    this.#tell(name, text, response) || this.drawTrouble(text);
  }

  #draw(state, text, response) {
    const view = this.#view;
    const left = this.#retryAt - now();
    const { texts } = this;
    this.state = state;
    clearTimeout(this.#countdown);
    if (state !== view?.state) {
      text ??= texts[state];
      if (state !== "waiting" && this.#tell("onHttpError", text, response)) return;
    } else if (state === "retrying") {
      text = describeRetry(view, left, texts);
      if (left > 0) this.#countdown = later(left % 1 || 1, () => this.#draw(state));
      if (this.#tell("onRetry", text, Math.max(0, Math.ceil(left)))) return;
    } else {
      text = describe(view, texts);
      if (this.#tell("onProgress", view.progress)) return;
    }
    this.draw(state, text, view);
  }

  #send(type, detail) {
    const cancelable = type !== "progress";
    return this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, cancelable }));
  }

  #tell(name, ...values) {
    const handler = this.option(name) || (name.endsWith("Error") && this.option("onError"));
    const [bar, message] = this.elements;
    if (handler) handler.call(this, bar, message, ...values);
    return handler;
  }

  /** Where the page wants more than words. */
  async #loadEnd(again = "") {
    const module = this.option("resultModule") || "./dramatiq-progress-result.js";
    if (ENDINGS.some((name) => this.option(name))) this.#end = (await import(module + again)).end;
  }

  /** A button, where the page wants one. */
  #offerCancel(answer) {
    const module = this.option("cancel") && (this.option("cancelModule") || "./dramatiq-progress-cancel.js");
    if (module) import(module).then(({ offer }) => offer(this, answer), () => {});
  }

  async #finish(view, answer) {
    const { state, result } = view;
    const { texts } = this;
    const isDone = state === "done";
    if (!this.#send(isDone ? state : "failed", answer) || !this.shows(view)) return;
    const why = new Map(texts.results).get(result) ?? (typeof result === "string" && result);
    const text = (!isDone && why) || texts[state];
    const handler = isDone ? "onSuccess" : state === "skipped" ? "onIgnored" : "onTaskError";
    if (!this.#tell(handler, isDone ? result : text)) this.draw(state, text, view);
    else if (!isDone) return;
    // Some browsers do not ask again for a module.
    if (!this.#end) await this.#loadEnd().catch(() => this.#loadEnd("?again").catch(() => {}));
    if (this.shows(view)) this.#end?.(this, view);
  }

  draw(state, text, view) {
    const [bar, message] = this.elements;
    const percent = view?.percent ?? null;
    if (message && message.textContent !== text) message.textContent = text;
    if (!bar) return;
    const colors = { ...BAR_COLORS, ...this.option("barColors") };
    bar.style.backgroundColor = colors[state] ?? colors[COLOR_NAMES[state] ?? "progress"];
    bar.style.inlineSize = percent === null ? "" : `${percent}%`;
    const track = bar.closest("[role=progressbar]");
    if (track) track.ariaValueNow = percent;
  }

  drawTrouble(text) {
    const [, message] = this.elements;
    if (text && message) message.textContent = text;
  }
};

export class ProgressBar extends Bar(EventTarget) {
  #options;

  constructor(src, options) {
    super();
    this.src = src;
    this.#options = {
      progressBarId: "progress-bar",
      progressBarMessageId: "progress-bar-message",
      resultElementId: "celery-result",
      showResult: true,
      ...options,
    };
    this.start();
  }

  get texts() {
    const messages = this.option("defaultMessages");
    const { waiting: enqueued = TEXTS.enqueued, started: running = TEXTS.running } = messages ?? {};
    return { ...TEXTS, enqueued, running, ...messages };
  }

  option(name) {
    return this.#options[name];
  }
}

export class DramatiqProgress extends Bar(HTMLElement) {
  static observedAttributes = ["src", "list", "label", "aria-label", ...LOOKS];

  #text = part("text");
  #remaining = part("remaining");
  #percent = part("percent");
  #fill = part("fill");
  #track = part("track", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, [this.#fill]);
  #note = part("note");
  #status = part("status", { role: "status" });
  #isOffline = false;
  #spoken;
  parts = [this.#fill, this.#text, this.#note];

  constructor() {
    super();
    const line = part("line", {}, [this.#text, this.#remaining, this.#percent]);
    const root = this.attachShadow({ mode: "open" });
    root.append(line, this.#track, this.#note, this.#status);
    root.adoptedStyleSheets = [plain];
  }

  get src() {
    return this.getAttribute("src") ?? "";
  }

  set src(value) {
    this.setAttribute("src", value);
  }

  get texts() {
    return new Proxy(TEXTS, { get: (texts, name) => this.getAttribute(`text-${name}`) ?? texts[name] });
  }

  option(name) {
    const attribute = name.replace(/[A-Z]/g, "-$&");
    return this.getAttribute(attribute) || this.hasAttribute(attribute);
  }

  connectedCallback() {
    this.start();
  }

  disconnectedCallback() {
    this.stop();
  }

  attributeChangedCallback(name, before, after) {
    if (LOOKS.includes(name)) queueMicrotask(() => this.#look());
    else if (name.endsWith("label")) this.#drawLabel();
    else if (before !== after) this.restart();
  }

  draw(state, text, view) {
    super.draw(state, text, view);
    const { texts } = this;
    const { percent = null, eta, version, current } = view ?? {};
    const isKnown = percent !== null;
    // A step for each report.
    this.#fill.style.insetInlineStart = isKnown ? "" : `${(((version ?? current) * 7) % 63) + 7}%`;
    show(this.#percent, isKnown ? formatNumber(Math.floor(percent) / 100, texts, { style: "percent" }) : "");
    const isLeft = state === "running" && eta > 0;
    show(this.#remaining, isLeft ? say(texts, "remaining", { time: formatDuration(eta, texts) }) : "");
    this.#drawLabel();
    this.#track.ariaValueText = this.#saidAloud();
    this.#look();
  }

  drawTrouble(text) {
    this.#isOffline = Boolean(text);
    show(this.#note, text);
    this.#look();
  }

  /** Also when a morph has taken it away. */
  #look() {
    if (this.getAttribute("state") !== this.state) this.setAttribute("state", this.state);
    this.toggleAttribute("indeterminate", this.#percent.hidden);
    this.toggleAttribute("offline", this.#isOffline);
    queueMicrotask(() => this.#speak());
  }

  #drawLabel() {
    this.#track.ariaLabel = this.getAttribute("label") || this.getAttribute("aria-label") || this.texts.label;
  }

  #saidAloud() {
    return [this.#percent, this.elements[1]].map(({ textContent }) => textContent).filter(Boolean).join(", ");
  }

  #speak() {
    const isOffline = this.#isOffline;
    const note = this.#note.textContent;
    const occasion = [this.src, this.state, Math.floor(this.#track.ariaValueNow / 25), isOffline].join();
    if (occasion === this.#spoken || (this.state === "waiting" && !isOffline)) return;
    this.#spoken = occasion;
    this.#status.textContent = isOffline ? note : `${this.#saidAloud()} ${note}`.trim();
  }
}

// Loaded from two addresses, the first stays.
if (!customElements.get("dramatiq-progress")) customElements.define("dramatiq-progress", DramatiqProgress);
