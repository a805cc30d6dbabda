/**
 * The button that cancels a message, loaded by dramatiq-progress.js for a bar with the attribute `cancel`. It is there when
 * the server has said that whoever looks may cancel, and while that makes sense. Reference: docs/bar.md.
 */

export const TEXTS = {
  cancel: "Cancel",
  cancelling: "Cancel requested; waiting for the task to notice",
  cancelForbidden: "Not allowed. Reload the page and try again.",
  cancelGone: "There is nothing here that you may cancel.",
  cancelRefused: "This task cannot be cancelled.",
  cancelFailed: "The server could not be asked. Try again.",
};

const NAMES = { 401: "cancelForbidden", 403: "cancelForbidden", 404: "cancelGone", 409: "cancelRefused" };
const LIMIT_SECONDS = 10;
/** So long what went wrong is told at the least; then the next answer ends it. */
const TROUBLE_SECONDS = 5;

const buttons = new WeakMap();

/** What the server has said of the bar's message; null: there is no such message, or none yet. */
export function offer(bar, answer) {
  const place = bar.shadowRoot ?? bar.option("cancelElement");
  if (!place) return;
  if (!buttons.has(bar)) buttons.set(bar, new CancelButton(bar, place));
  buttons.get(bar).hear(answer);
}

class CancelButton {
  #bar;
  #row = create("div", "actions");
  #button = create("button", "cancel");
  #note = create("span", "cancel-note");
  #answer = null;
  /** Whether whoever looks may cancel; undefined while nobody has asked. */
  #may;
  #isAsking = false;
  #trouble = "";
  #toldAt = 0;

  constructor(bar, place) {
    this.#bar = bar;
    this.#button.type = "button";
    this.#button.addEventListener("click", () => this.#press());
    this.#note.setAttribute("role", "status");
    this.#note.tabIndex = -1;
    this.#row.append(this.#button, this.#note);
    place.append(this.#row);
  }

  hear(answer) {
    if (answer?.id !== this.#answer?.id) {
      this.#may = undefined;
      this.#trouble = "";
    }
    if (performance.now() > this.#toldAt + TROUBLE_SECONDS * 1000) this.#trouble = "";
    this.#answer = answer;
    if (answer?.can_cancel) this.#may = true;
    else if (this.#isOpen && this.#may === undefined) this.#learn();
    this.#draw();
  }

  get #isOpen() {
    return Boolean(this.#answer) && !this.#answer.complete && !this.#answer.cancel_requested;
  }

  /** Not every answer says so: it takes a session and a user to find out. */
  async #learn() {
    const { id } = this.#answer;
    const { src } = this.#bar;
    this.#may = false;
    const request = this.#bar.request(limit(), `${src}${src.includes("?") ? "&" : "?"}can_cancel`);
    const response = await this.#bar.fetch(request).catch(() => null);
    const answer = response?.ok ? await response.json().catch(() => null) : null;
    if (id !== this.#answer?.id) return;
    // A server that could not say is asked again after the next answer.
    this.#may = answer ? answer.can_cancel : response?.status < 500 ? false : undefined;
    this.#draw();
  }

  #say(name) {
    return this.#bar.texts[name] ?? TEXTS[name];
  }

  #draw() {
    const { cancel_requested: isRequested, complete } = this.#answer ?? {};
    const isOffered = this.#isOpen && this.#may === true;
    const isWaiting = isRequested && !complete;
    const hadFocus = this.#button.matches(":focus");
    const label = ["label", "ariaLabel"].map((name) => this.#bar.option(name)).find((each) => typeof each === "string");
    show(this.#button, this.#say("cancel"));
    if (label) this.#button.ariaLabel = `${this.#say("cancel")}: ${label}`;
    // Not `disabled`: a button that is loses the focus.
    this.#button.ariaDisabled = String(this.#isAsking);
    this.#button.hidden = !isOffered;
    const text = (isOffered && this.#trouble) || (isWaiting ? this.#say("cancelling") : "");
    show(this.#note, text);
    this.#row.hidden = !isOffered && !text;
    if (hadFocus && !isOffered) this.#note.focus();
  }

  async #press() {
    const question = this.#bar.option("cancelConfirm");
    if (this.#isAsking || (typeof question === "string" && !confirm(question))) return;
    this.#isAsking = true;
    this.#trouble = "";
    this.#draw();
    const asked = this.#answer;
    const { trouble, answer } = await this.#ask().catch(() => ({ trouble: "cancelFailed" }));
    this.#isAsking = false;
    // Meanwhile the bar may have turned to another message, or have heard something newer of this one.
    const isSame = this.#answer?.id === asked?.id;
    if (isSame && trouble) this.#trouble = this.#say(trouble);
    this.#toldAt = performance.now();
    if (isSame && answer && !(answer.version < this.#answer.version)) this.#answer = answer;
    this.#draw();
    // What comes of it is told by the bar's next answer, which is asked for at once.
    if (isSame) this.#bar.restart();
  }

  /** What the server answered, or the name of what went wrong. */
  async #ask() {
    const url = new URL(this.#bar.option("cancel"), location.href);
    // The token is this site's secret.
    if (url.origin !== location.origin) return { trouble: "cancelForbidden" };
    const request = new Request(url, {
      method: "POST",
      body: new URLSearchParams({ csrfmiddlewaretoken: this.#token() }),
      headers: { Accept: "application/json" },
      signal: limit(),
    });
    const response = await this.#bar.fetch(request);
    return response.ok ? { answer: await response.json() } : { trouble: NAMES[response.status] ?? "cancelFailed" };
  }

  /** The cookie of this moment, where scripts may read it: a login in another tab changes it. */
  #token() {
    const name = this.#bar.option("csrfCookie");
    const cookie = document.cookie.split("; ").find((each) => each.startsWith(`${name}=`));
    return cookie ? cookie.slice(name.length + 1) : this.#bar.option("csrf") || "";
  }
}

const limit = () => AbortSignal.timeout(LIMIT_SECONDS * 1000);

function show(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function create(tag, part) {
  const element = document.createElement(tag);
  element.setAttribute("part", part);
  return element;
}
