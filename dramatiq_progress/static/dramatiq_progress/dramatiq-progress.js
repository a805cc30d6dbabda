/** The progress bar: polls messages and draws the answers. Reference: docs/bar.md. */

export const TEXTS = {
  locale: "en",
  label: "Progress",
  waiting: "Checking progress…",
  "not-found": "This task could not be found.",
  expired: "This task is no longer available. You may need to sign in again.",
  denied: "This task isn't available. You may need to sign in again.",
  offline: "Connection lost. Trying again…",
  enqueued: "Waiting in the queue",
  position: "In the queue: about number {position} of {length}",
  first: "Next in the queue",
  delayed: "Scheduled",
  paused: "Paused",
  running: "Running",
  amount: "{current} of {total}",
  count: "{current} so far",
  described: "{description}: {amount}",
  remaining: "{text}, about {time} left",
  retryIn: "This attempt failed. Retrying in {time}…",
  retryNow: "This attempt failed. Retrying now…",
  attempt: "{text} (attempt {attempt})",
  attemptOf: "{text} (attempt {attempt} of {attempts})",
  lost: "The task stopped responding. It may restart automatically.",
  done: "Done",
  failed: "The task failed.",
  cancelled: "The task was cancelled.",
  skipped: "The task was skipped.",
  stopped: "stopped at {percent}",
  download: "Download",
  retry: "Try again",
  yes: "yes",
  no: "no",
  // Pairs: the server's English, its translation.
  results: [],
};

const ENGLISH = { ...TEXTS };
let pageTexts;

/** From {% dramatiq_progress_script %}; Turbo may replace it. */
function readTexts() {
  const { content } = document.querySelector("meta[name=dramatiq-progress-texts]") ?? {};
  if (content === pageTexts) return;
  for (const name in TEXTS) delete TEXTS[name];
  Object.assign(TEXTS, ENGLISH, JSON.parse((pageTexts = content) ?? "{}"));
}

readTexts();

const POLL_AFTER_SECONDS = 0.5;
const POLL_MIN_SECONDS = 0.1;
const WAIT_LIMIT_SECONDS = 3600;
const REQUEST_LIMIT_SECONDS = 10;
const LIST_LIMIT = 100;
const FIRST_ANSWER_LIMIT_SECONDS = 4;
const RETRY_LIMIT_SECONDS = 30;
const PATIENCE_SECONDS = 2;
const LEAVING_LIMIT_SECONDS = 30;
const STREAM_SILENCE_SECONDS = 20;
// A smaller move is drawn at once: for a transition, the page is painted in each of 18 frames.
const SMALLEST_TRANSITION_PERCENT = 0.5;
const SMALLEST_TRANSITION_PERCENT_PER_BAR = 0.02;

const FINAL_STATES = ["done", "failed", "cancelled", "skipped"];
const PENDING_STATES = ["enqueued", "delayed", "paused"];
const STATES = [...PENDING_STATES, "running", "retrying", "lost", ...FINAL_STATES];
const CELERY_STATES = {
  __proto__: null,
  PENDING: "enqueued",
  RETRY: "retrying",
  REVOKED: "cancelled",
  IGNORED: "skipped",
};

const BAR_COLORS = { progress: "#2563eb", success: "#15803d", error: "#dc2626", ignored: "#6b7280" };
const COLOR_NAMES = { done: "success", failed: "error", retrying: "error", cancelled: "ignored", skipped: "ignored" };
const RESULT_OPTIONS = ["showResult", "redirect", "download", "swap", "retry"];
const STATE_ATTRIBUTES = ["state", "indeterminate", "offline", "untitled"];
const CLOCKS = ["elapsed", "rate", "eta", "retry_in", "poll_after"];

const clamp = (value, min, max) => Math.min(max, Math.max(min, value));
// Unlike Date, this clock is never changed.
const now = () => performance.now() / 1000;
const later = (seconds, act) => setTimeout(act, seconds * 1000);

function readAnswer(answer) {
  const { current = 0, total = null, description = "", pending } = answer.progress ?? {};
  const state = readState(answer);
  const finished = FINAL_STATES.includes(state);
  const continues = answer.pause_requested || (pending === false && PENDING_STATES.includes(state));
  // A retry that starts over still has the percentage of the attempt that failed.
  const percent = pending ? null : readPercent(answer.progress ?? {});
  return { ...answer, state, finished, continues, current, total, description, percent };
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

function withoutClocks(answer) {
  return JSON.stringify(answer, (key, value) => (CLOCKS.includes(key) ? undefined : value));
}

const formatters = {};

/** Making a formatter takes much longer than using it. */
function formatNumber(value, { locale }, options) {
  const name = [locale, ...Object.values(options ?? {})];
  return (formatters[name] ??= new Intl.NumberFormat(locale, options)).format(value);
}

function format(texts, name, values) {
  return texts[name].replace(/\{(\w+)\}/g, (match, key) => {
    const value = values[key] ?? match;
    return typeof value === "number" ? formatNumber(value, texts) : value;
  });
}

function formatDuration(seconds, texts) {
  const [size, unit] =
    seconds < 60 ? [1, "second"] : seconds < 5400 ? [60, "minute"] : seconds < 129600 ? [3600, "hour"] : [86400, "day"];
  return formatNumber(Math.ceil(seconds / size), texts, { style: "unit", unit, unitDisplay: "long" });
}

/** dramatiq-progress-parts.js, from the first answer on that needs it. */
let partsModule;

/** `outcome` is the server's text for the user, at the end. */
function describe(view, texts, outcome) {
  const { state, queue_position: position, queue_length: length, eta } = view;
  const isRunning = state === "running";
  let text = isRunning ? describeAmount(view, texts) : outcome || texts[state];
  if (state === "enqueued" && position) text = format(texts, position > 1 ? "position" : "first", { position, length });
  if (partsModule) text = partsModule.describe(view, texts, text, format, formatDuration, describeAmount);
  return isRunning && eta > 0 ? format(texts, "remaining", { text, time: formatDuration(eta, texts) }) : text;
}

function describeAmount({ current, total, description }, texts, nothing = texts.running) {
  const isKnown = total != null;
  const amount = (isKnown || current) && format(texts, isKnown ? "amount" : "count", { current, total });
  if (!amount || !description) return amount || description || nothing;
  return format(texts, "described", { amount, description: description.replace(/[.…:]+$/, "") });
}

function describeRetry({ attempt, retries_left: left }, retryIn, texts) {
  const text = retryIn > 0 ? format(texts, "retryIn", { time: formatDuration(retryIn, texts) }) : texts.retryNow;
  if (!attempt) return text;
  return format(texts, left ? "attemptOf" : "attempt", { text, attempt: attempt + 1, attempts: attempt + left });
}

function readRetryAfter({ headers }) {
  const value = headers.get("Retry-After");
  // By the server's clock: the visitor's may be wrong.
  const today = Date.parse(headers.get("Date")) || Date.now();
  return clamp(Number(value) || (Date.parse(value) - today) / 1000 || 0, 0, WAIT_LIMIT_SECONDS);
}

function repeat({ answer, receivedAt }, pollAfter) {
  const countDown = (seconds) => seconds && Math.max(0, seconds - (now() - receivedAt));
  const { eta, retry_in, elapsed, poll_after } = answer;
  const clocks = { eta: countDown(eta), retry_in: countDown(retry_in), elapsed: elapsed + now() - receivedAt };
  return { ...answer, ...clocks, poll_after: +pollAfter || poll_after };
}

class Poller {
  static #pollers = new Map();
  #list;
  #batchLimit = LIST_LIMIT;
  #messages = new Map();
  #listening = new AbortController();
  #request = null;
  #timer;
  #failures = 0;
  #latency = 0;
  #troubleTimer;
  #resumeAt = 0;
  #notBefore = 0;
  #leavingUntil = 0;
  #stream;

  static watch(bar) {
    const { src, list, tag } = bar;
    const id = list && src.startsWith(list) && /^([\w-]{1,64})\/$/.exec(src.slice(list.length))?.[1];
    const name = id ? tag + list : bar;
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
    // WebKit fails requests as soon as another page is requested, and that may take long.
    addEventListener("beforeunload", () => (this.#leavingUntil = now() + LEAVING_LIMIT_SECONDS), { signal });
    addEventListener("pagehide", () => this.#stop(), { signal });
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
    this.#callStream("close");
    return true;
  }

  #pause() {
    clearTimeout(this.#timer);
    clearTimeout(this.#troubleTimer);
  }

  #stop() {
    this.#pause();
    this.#request?.abort();
    this.#request = null;
  }

  #wake() {
    this.#callStream();
    if (document.hidden) return this.#pause();
    this.#stop();
    this.#failures = 0;
    this.resume(0);
  }

  resume(seconds) {
    this.#resumeAt = now() + seconds;
    for (const message of this.#messages.values()) message.due = this.#resumeAt + (message.streamed = 0);
    this.#schedule();
  }

  #byDue() {
    return [...this.#messages.values()].sort((one, other) => one.due - other.due);
  }

  #schedule() {
    clearTimeout(this.#timer);
    if (document.hidden || this.#request || !this.#messages.size) return;
    const at = Math.max(this.#byDue()[0].due, this.#notBefore, now());
    this.#timer = later(at - now(), () => this.#poll());
  }

  async #poll() {
    const waiting = this.#byDue();
    const at = Math.max(waiting[0].due, now());
    const batch = waiting.filter(({ due, pollAfter }) => due - pollAfter / 8 <= at).slice(0, this.#batchLimit);
    const request = new AbortController();
    this.#request = request;
    const limit = later(REQUEST_LIMIT_SECONDS, () => request.abort());
    // A slow server isn't a lost connection.
    if (!this.#failures) this.#showTrouble(this.#latency + PATIENCE_SECONDS);
    const outcome = await this.#exchange(batch, request.signal).catch(() => ({}));
    clearTimeout(limit);
    if (this.#request !== request) return;
    this.#request = null;
    if (!outcome.answerTo) return this.#fail(outcome.response);
    this.#latency = now() - at;
    // The page stays. The answer to an earlier request doesn't say so.
    if (this.#leavingUntil < at + LEAVING_LIMIT_SECONDS) this.#leavingUntil = 0;
    // Unless the stream was faster.
    this.#handle(batch.filter(({ receivedAt }) => !(receivedAt > at)), outcome);
  }

  async #exchange(batch, signal) {
    const [{ src, bars, version }] = batch;
    const [bar] = bars;
    const isList = batch.length > 1;
    const url = isList ? `${this.#list}?id=${batch.map(({ id }) => id).sort().join("&id=")}` : src;
    // A 304 means the answer that all of them received last.
    const known = version?.url === url && batch.every((message) => message.version === version);
    const response = await bar.request(signal, url, known && version.etag);
    const { status, headers } = response;
    if (known && status === 304) return { version, answerTo: (message) => repeat(message, headers.get("Poll-After")) };
    // A session that ended is often a redirect to a page for signing in.
    const isPage = response.redirected && /html/.test(headers.get("Content-Type"));
    const denied = [401, 403].includes(status) || isPage;
    if (denied || (!isList && [404, 410].includes(status))) return { response, denied, answerTo: () => null };
    if (isList && status >= 400 && status < 429) this.#batchLimit = 1;
    const answer = response.ok && (await response.json().catch(() => null));
    const answers = isList ? answer?.messages : [answer];
    if (!answers?.every((each) => typeof each?.complete === "boolean")) return { response };
    const answerTo = ({ id }) => (isList ? answers.find((each) => each.id === id) : answer);
    return { version: { url, etag: headers.get("ETag") }, answerTo };
  }

  /** Schedules the next poll first: a listener may cancel it. */
  #handle(batch, { answerTo, version, denied, response, streamed = 0 }) {
    this.#failures = 0;
    clearTimeout(this.#troubleTimer);
    for (const message of batch) {
      const answer = answerTo(message);
      const isNew = () => answer && withoutClocks(answer) !== withoutClocks(message.answer);
      if (message.streamed > streamed && isNew()) this.#callStream("leave");
      message.pollAfter = answer ? this.#accept(message, answer, version) : this.#miss(message, denied);
      if (streamed) message.pollAfter = streamed;
      message.streamed = streamed;
    }
    batch.sort((one, other) => one.pollAfter - other.pollAfter);
    for (const message of batch) message.due = streamed ? now() + streamed : this.#align(message.pollAfter);
    this.#schedule();
    for (const { bars, answer, isGone } of batch) {
      for (const bar of [...bars]) {
        if (bars.has(bar)) bar.onAnswer(answer, isGone, denied, response);
      }
    }
  }

  #align(seconds) {
    const last = now() + seconds;
    return this.#byDue().map(({ due }) => due).findLast((due) => due <= last && due >= last - seconds / 2) ?? last;
  }

  #accept(message, answer, version) {
    Object.assign(message, { answer, version, receivedAt: now(), missingSince: null });
    const seconds = Number.isFinite(answer.poll_after) ? answer.poll_after : POLL_AFTER_SECONDS;
    const wanted = [...message.bars].map(({ pollSeconds }) => pollSeconds || seconds);
    return clamp(Math.min(...wanted), POLL_MIN_SECONDS, WAIT_LIMIT_SECONDS);
  }

  #miss(message, denied) {
    message.answer = message.version = null;
    message.missingSince ??= now();
    const missingFor = now() - message.missingSince;
    message.isGone = denied || missingFor >= FIRST_ANSWER_LIMIT_SECONDS;
    return denied ? RETRY_LIMIT_SECONDS : clamp(missingFor, POLL_AFTER_SECONDS, RETRY_LIMIT_SECONDS);
  }

  #fail(response) {
    const retryAfter = response ? readRetryAfter(response) : 0;
    const backOff = Math.min(2 ** this.#failures, RETRY_LIMIT_SECONDS);
    this.#notBefore = now() + retryAfter;
    const chance = Math.random() / 2;
    this.resume(retryAfter ? retryAfter + chance : backOff * (1 - chance));
    const isLasting = this.#failures++ || retryAfter > PATIENCE_SECONDS;
    this.#showTrouble(isLasting ? 0 : retryAfter + PATIENCE_SECONDS, response);
  }

  /** Unless an answer is received before. */
  #showTrouble(seconds, response) {
    clearTimeout(this.#troubleTimer);
    this.#troubleTimer = later(seconds, () => {
      if (document.hidden || this.#leavingUntil > now()) return;
      for (const { bars } of this.#byDue()) for (const bar of [...bars]) if (bars.has(bar)) bar.onTrouble(response);
    });
  }

  #useStream({ stream, module }) {
    this.#stream ??= import(module).then(({ Stream }) => new Stream(stream, this));
    this.#callStream();
  }

  #callStream(method = document.hidden ? "close" : "open") {
    this.#stream?.then((stream) => stream[method]()).catch(() => {});
  }

  get ids() {
    return [...this.#messages.values()].flatMap(({ id }) => id || []);
  }

  #messageOf({ id }) {
    return this.#messages.get(`${this.#list}${id}/`);
  }

  /** False if a poll was faster than the stream. */
  isNew(answer) {
    return !(answer.version < this.#messageOf(answer)?.answer?.version);
  }

  /** Answers of the stream. */
  receive(answers) {
    const received = new Map(answers.filter(this.isNew, this).map((answer) => [this.#messageOf(answer), answer]));
    received.delete(undefined);
    this.#handle([...received.keys()], { answerTo: (message) => received.get(message), streamed: STREAM_SILENCE_SECONDS });
  }
}

// An unchanged text isn't laid out again.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const join = (...texts) => texts.filter(Boolean).join(", ");

function part(name, attributes = {}, children = []) {
  const element = document.createElement("div");
  for (const [key, value] of Object.entries({ part: name, ...attributes })) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// For pages without the stylesheet, which overrides it.
const plain = new CSSStyleSheet();
plain.replaceSync(`
  [part=track] { height: 8px; background: #8884 }
  [part=fill] { height: 100%; background: #2563eb }
  [part=status] { position: fixed; clip-path: inset(50%) }
`);

const Bar = (Base) => class extends Base {
  state = "waiting";
  /** Texts that replace the bar's own until the end, by their source: "trouble", "cancel". */
  notes = {};
  #drawn = [];
  #unwatch = () => {};
  #showOutcome;
  #isRunning = false;
  #partsTried;
  #src;
  #view = null;
  #shown;
  #retryAt;
  #countdown;

  get elements() {
    return ["progressBar", "progressBarMessage", "result"].map((name, index) => {
      const id = this.option(index < 2 ? `${name}Id` : "resultElementId");
      return this.option(`${name}Element`) || document.getElementById(id) || this.parts?.[index];
    });
  }

  /** What a person calls the job. */
  get name() {
    const { title, actor = "" } = this.#view ?? {};
    // A title stays as it is: it may be a file's name.
    return this.option("label") || title || actor.replaceAll("_", " ").replace(/./, (first) => first.toUpperCase());
  }

  request(signal, url = this.src) {
    return new Request(url, { signal, cache: "no-store", headers: { Accept: "application/json" } });
  }

  fetch(request) {
    return fetch(request);
  }

  // Going back to the bar would redirect here again.
  follow(url) {
    location.replace(url);
  }

  start() {
    this.stop();
    this.#isRunning = true;
    readTexts();
    if (this.#src !== this.src) this.#view = this.#shown = this.#partsTried = null;
    if (this.#view?.finished) return;
    this.#src = this.src;
    this.notes = {};
    this.#draw(this.#view ? this.state : "waiting");
    if (!this.src) return;
    this.#loadResultModule().catch(() => {});
    this.#unwatch = Poller.watch({
      src: this.src,
      list: this.option("list"),
      tag: this.localName,
      pollSeconds: parseInt(this.option("pollInterval")) / 1000,
      stream: this.option("transport") !== "poll" && this.option("stream"),
      module: this.#moduleUrl("stream"),
      request: (signal, url, etag) => {
        const request = this.request(signal, url);
        if (etag) request.headers.set("If-None-Match", etag);
        return this.fetch(request);
      },
      onAnswer: (...values) => this.#receive(...values),
      onTrouble: async (response) => this.#trouble(response),
    });
  }

  restart() {
    if (this.#isRunning) this.start();
  }

  stop() {
    this.#isRunning = false;
    this.#unwatch();
    clearTimeout(this.#countdown);
  }

  /** False after a listener stopped or redirected the bar. */
  shows(view) {
    return this.#isRunning && this.#view === view;
  }

  async #receive(answer, isGone, denied, response) {
    this.notes.trouble = "";
    this.#offerCancel(answer);
    if (!answer) {
      const state = this.#view ? "expired" : isGone ? "not-found" : "waiting";
      return this.#draw(state, this.texts[denied ? "denied" : state], response);
    }
    const view = readAnswer(answer);
    const shown = withoutClocks(answer);
    const isNew = shown !== this.#shown;
    this.#view = view;
    this.#shown = shown;
    this.#retryAt = now() + (view.retry_in ?? 0);
    if (view.finished) this.#unwatch();
    const loading = this.#loadPartsModule(view);
    // So that its text is drawn and announced once, unless the module is slow.
    if (loading) await Promise.race([loading, new Promise((go) => later(PATIENCE_SECONDS, go))]);
    // A bar that was stopped meanwhile starts over.
    if (!this.#isRunning) this.#view = this.#shown = null;
    if (this.#shown !== shown) return;
    this.#draw(view.state);
    if (isNew) this.#dispatch("progress", answer);
    if (view.finished && this.shows(view)) this.#finish(view, answer);
  }

  #trouble(response) {
    if (!this.#dispatch("trouble", { response })) return;
    const text = this.texts.offline;
    const name = response?.ok ? "onDataError" : response ? "onHttpError" : "onNetworkError";
    this.#callHandler(name, text, response) || this.note("trouble", text);
  }

  #draw(state, text, response) {
    const view = this.#view;
    const left = this.#retryAt - now();
    const { texts } = this;
    this.state = state;
    clearTimeout(this.#countdown);
    if (state !== view?.state) {
      text ??= texts[state];
      if (state !== "waiting" && this.#callHandler("onHttpError", text, response)) return;
    } else if (state === "retrying") {
      text = describeRetry(view, left, texts);
      if (left > 0) this.#countdown = later(left % 1 || 1, () => this.#draw(state));
      if (this.#callHandler("onRetry", text, Math.max(0, Math.ceil(left)))) return;
    } else {
      text = describe(view, texts);
      if (this.#callHandler("onProgress", view.progress)) return;
    }
    this.#show(state, text, view);
  }

  #show(...drawn) {
    this.#drawn = drawn;
    const [state, text, view] = drawn;
    const { trouble, cancel } = this.notes;
    this.draw(state, (!view?.finished && (trouble || cancel)) || text, view);
  }

  /** Shows a text instead of the bar's own. An empty one removes it. */
  note(source, text) {
    if (text === (this.notes[source] ?? "")) return;
    this.notes[source] = text;
    // A final text may have been replaced by a link.
    if (!this.#view?.finished) this.#show(...this.#drawn);
  }

  #dispatch(type, detail) {
    const cancelable = type !== "progress";
    return this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true, cancelable }));
  }

  #callHandler(name, ...values) {
    const handler = this.option(name) || (name.endsWith("Error") && this.option("onError"));
    if (handler) handler.call(this, ...this.elements.slice(0, 2), ...values);
    return handler;
  }

  #moduleUrl(name) {
    return this.option(`${name}Module`) || `./dramatiq-progress-${name}.js`;
  }

  async #loadResultModule(again = "") {
    if (!RESULT_OPTIONS.some((name) => this.option(name))) return;
    this.#showOutcome = (await import(this.#moduleUrl("result") + again)).showOutcome;
  }

  /** After a failure, the next state or step tries it again: not each answer. */
  #loadPartsModule({ state, finished, continues, step, parts, usual }) {
    const occasion = state + step?.index;
    const isNeeded = parts ?? (!finished && (step?.count || usual || continues));
    if (partsModule || occasion === this.#partsTried || !isNeeded) return;
    // The handler draws instead of the bar.
    if (this.option("onProgress")) return;
    this.#partsTried = occasion;
    const use = (module) => {
      partsModule = module;
      const shown = this.#view;
      if (this.#isRunning && shown?.state === this.state && !shown.finished) this.#draw(this.state);
    };
    return import(this.#moduleUrl("parts")).then(use, () => {});
  }

  #offerCancel(answer) {
    if (this.option("cancel")) import(this.#moduleUrl("cancel")).then(({ offer }) => offer(this, answer), () => {});
  }

  async #finish(view, answer) {
    const { state, result } = view;
    const isDone = state === "done";
    if (!this.#dispatch(isDone ? state : "failed", answer) || !this.shows(view)) return;
    // Instead of the server's default, which says no more, the bar's own text of the state.
    const why = typeof result === "string" && result !== TEXTS[state] && !isDone && result;
    const text = describe(view, this.texts, new Map(this.texts.results).get(why) ?? why);
    if (!this.#callHandler(isDone ? "onSuccess" : state === "skipped" ? "onIgnored" : "onTaskError", isDone ? result : text))
      this.#show(state, text, view);
    else if (!isDone) return;
    // Some browsers cache a failed import.
    const again = () => this.#loadResultModule("?again");
    if (!this.#showOutcome) await this.#loadResultModule().catch(again).catch(() => {});
    if (this.shows(view)) this.#showOutcome?.(this, view);
  }

  draw(state, text, view) {
    const [bar, message] = this.elements;
    const percent = view?.percent ?? null;
    if (message) write(message, text);
    if (!bar) return;
    const colors = { ...BAR_COLORS, ...this.option("barColors") };
    bar.style.backgroundColor = colors[state] ?? colors[COLOR_NAMES[state] ?? "progress"];
    bar.style.inlineSize = percent === null ? "" : `${percent}%`;
    const track = bar.closest("[role=progressbar]");
    if (track) track.ariaValueNow = percent;
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
  static #count = 0;
  static observedAttributes = ["src", "list", "label", "aria-label", ...STATE_ATTRIBUTES];

  #title = part("title");
  #percent = part("percent");
  #fill = part("fill");
  #track = part("track", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, [this.#fill]);
  #text = part("text");
  #words = part("words", {}, [this.#text]);
  #help = part("help", {}, [part("sign", { "aria-hidden": true }), this.#words]);
  #actions;
  #status = part("status", { role: "status" });
  #name = "";
  #said = "";
  #announced;
  #version;
  #step;
  #isNew = true;
  #first = {};
  parts = [this.#fill, this.#text, this.#text];

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.append(part("box", {}, [this.#title, this.#percent, this.#track, this.#help]), this.#status);
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

  /** The controls at the end of the last row. */
  get actions() {
    if (!this.#actions) this.#help.append((this.#actions = part("actions")));
    return this.#actions;
  }

  get name() {
    return this.getAttribute("label") ?? (super.name || this.#first.title || "");
  }

  option(name) {
    const attribute = name.replace(/[A-Z]/g, "-$&");
    return this.getAttribute(attribute) || this.hasAttribute(attribute);
  }

  connectedCallback() {
    DramatiqProgress.#count++;
    const isNew = this.#isNew;
    this.#isNew = false;
    this.#words.dataset.reserve = this.texts.expired;
    // The controls have their place before they are offered.
    if (this.option("cancel") || this.option("retry")) this.actions;
    this.start();
    if (isNew || !this.src) this.#drawChildren();
    if (isNew && this.option("warning")) console.warn(this.option("warning"), this);
  }

  disconnectedCallback() {
    DramatiqProgress.#count--;
    this.stop();
  }

  attributeChangedCallback(name, before, after) {
    if (STATE_ATTRIBUTES.includes(name)) queueMicrotask(() => this.#reflect());
    else if (name.endsWith("label")) this.#drawName();
    else if (before !== after) this.restart();
  }

  /** Until the first answer: what the template tag has rendered for pages without JavaScript. */
  #drawChildren() {
    const [title, text] = ["b", "span"].map((tag) => this.querySelector(`:scope > ${tag}`));
    const { state, percent } = text?.dataset ?? {};
    if (!state) return;
    this.#first = { title: title?.textContent };
    this.state = state;
    this.draw(state, text.dataset.text ?? text.textContent, { percent, finished: FINAL_STATES.includes(state) });
  }

  draw(state, text, view) {
    const { texts } = this;
    const { percent = null, version, current, step } = view ?? {};
    const { style } = this.#fill;
    const smallest = Math.max(SMALLEST_TRANSITION_PERCENT, SMALLEST_TRANSITION_PERCENT_PER_BAR * DramatiqProgress.#count);
    style.setProperty("--_move", Math.abs(percent - this.#track.ariaValueNow) < smallest ? "0s" : "");
    super.draw(state, text, view);
    const isKnown = percent !== null;
    const share = isKnown ? formatNumber(Math.floor(percent) / 100, texts, { style: "percent" }) : "";
    const isStopped = isKnown && percent < 100 && view.finished && state !== "done" && !this.option("compact");
    // Moves one step per report.
    style.insetInlineStart = isKnown || state !== "running" ? "" : `${(((version ?? current) * 7) % 63) + 7}%`;
    write(this.#percent, isStopped ? format(texts, "stopped", { percent: share }) : share);
    this.#percent.hidden = !isKnown;
    partsModule?.draw(this, view);
    this.#said = text;
    this.#drawName();
    if (this.option("pulse") && state === "running" && version > this.#version) {
      this.setAttribute("beat", this.getAttribute("beat") === "a" ? "b" : "a");
    }
    this.#version = version;
    this.#step = state === "running" && partsModule && step;
    this.#reflect();
  }

  /** Restores attributes that a morph removed. */
  #reflect() {
    if (this.getAttribute("state") !== this.state) this.setAttribute("state", this.state);
    this.toggleAttribute("indeterminate", this.#percent.hidden);
    this.toggleAttribute("offline", Boolean(this.notes.trouble));
    this.toggleAttribute("untitled", this.#title.hidden);
    queueMicrotask(() => this.#announce());
  }

  #drawName() {
    const { name } = this;
    write(this.#title, name);
    // Before the first answer there is room for the title.
    this.#title.hidden = !name && (this.state !== "waiting" || this.hasAttribute("label"));
    this.#name = this.getAttribute("label") || this.getAttribute("aria-label") || name;
    this.#track.ariaLabel = this.#name || this.texts.label;
    this.#track.ariaValueText = join(this.#percent.textContent, this.#said);
  }

  #announce() {
    const { trouble, cancel } = this.notes;
    const quarter = Math.floor(this.#track.ariaValueNow / 25);
    const { index, name } = (!trouble && !cancel && this.#step) || {};
    const occasion = [this.src, this.state, quarter, trouble, cancel, index, name].join();
    if (occasion === this.#announced || (this.state === "waiting" && !trouble)) return;
    this.#announced = occasion;
    const percent = !trouble && !cancel && this.#percent.textContent;
    // A result or a link may have replaced the text.
    const [, { textContent: text }] = this.elements;
    write(this.#status, join(this.#name, percent, this.#said, text === this.#said ? "" : text));
  }
}

// If it is loaded from two URLs, the first one wins.
if (!customElements.get("dramatiq-progress")) customElements.define("dramatiq-progress", DramatiqProgress);
