/**
 * The button that cancels a message. It is shown while the message can be cancelled and this user may do it.
 * dramatiq-progress.js loads it for a bar with the attribute `cancel`. Reference: docs/bar.md.
 */

export const TEXTS = {
  cancel: "Cancel",
  cancelling: "Cancelling…",
  cancelForbidden: "Couldn't cancel the task. Reload the page and try again.",
  cancelGone: "This task can no longer be cancelled.",
  cancelRefused: "This task can't be cancelled.",
  cancelFailed: "Couldn't reach the server. Try again.",
};

const ERRORS = { 401: "cancelForbidden", 403: "cancelForbidden", 404: "cancelGone", 409: "cancelRefused" };
const REQUEST_LIMIT_SECONDS = 10;
/** Minimum time to show an error. The next answer after it removes the error. */
const ERROR_SECONDS = 5;

const buttons = new WeakMap();

/** Updates the bar's button after an answer; null if the message isn't found. */
export function offer(bar, answer) {
  if (!bar.shadowRoot && !bar.option("cancelElement")) return;
  if (!buttons.has(bar)) buttons.set(bar, new CancelButton(bar));
  buttons.get(bar).receive(answer);
}

class CancelButton {
  #bar;
  #button = document.createElement("button");
  #answer = null;
  /** Whether this user may cancel; undefined if unknown. */
  #may;
  #isSending = false;
  #error = "";
  #errorAt = 0;

  constructor(bar) {
    this.#bar = bar;
    this.#button.type = "button";
    this.#button.setAttribute("part", "action cancel");
    this.#button.addEventListener("click", () => this.#press());
  }

  receive(answer) {
    if (answer?.id !== this.#answer?.id) {
      this.#may = undefined;
      this.#error = "";
    }
    if (performance.now() > this.#errorAt + ERROR_SECONDS * 1000) this.#error = "";
    this.#answer = answer;
    if (answer?.can_cancel) this.#may = true;
    else if (this.#isOpen && this.#may === undefined) this.#checkPermission();
    this.#draw();
  }

  get #isOpen() {
    return Boolean(this.#answer) && !this.#answer.complete && !this.#answer.cancel_requested;
  }

  /** Answers that are shared by several users don't include the permission. */
  async #checkPermission() {
    const { id } = this.#answer;
    const { src } = this.#bar;
    this.#may = false;
    const request = this.#bar.request(timeLimit(), `${src}${src.includes("?") ? "&" : "?"}can_cancel`);
    const response = await this.#bar.fetch(request).catch(() => null);
    const answer = response?.ok ? await response.json().catch(() => null) : null;
    if (id !== this.#answer?.id) return;
    // After a server error, it is checked again with the next answer.
    this.#may = answer ? answer.can_cancel : response?.status < 500 ? false : undefined;
    this.#draw();
  }

  #text(name) {
    return this.#bar.texts[name] ?? TEXTS[name];
  }

  #draw() {
    const { cancel_requested: isRequested, complete } = this.#answer ?? {};
    const isOffered = this.#isOpen && this.#may === true;
    const isWaiting = isRequested && !complete;
    const hadFocus = this.#button.matches(":focus");
    const text = this.#text("cancel");
    const [name] = ["label", "ariaLabel"].map((each) => this.#bar.option(each)).filter((each) => each?.length);
    const label = name ?? this.#bar.name;
    const parent = this.#bar.actions ?? this.#bar.option("cancelElement");
    if (isOffered && !this.#button.isConnected) parent.append(this.#button);
    if (this.#button.textContent !== text) this.#button.textContent = text;
    this.#button.ariaLabel = label ? `${text}: ${label}` : null;
    // Not `disabled`: a disabled button loses the focus.
    this.#button.ariaDisabled = String(this.#isSending);
    // It keeps its width until the end, so that the text isn't wrapped differently.
    this.#button.style.visibility = isOffered ? "" : "hidden";
    this.#button.hidden = Boolean(complete);
    this.#bar.note("cancel", (isOffered && this.#error) || (isWaiting ? this.#text("cancelling") : ""));
    if (hadFocus && !isOffered) focus(this.#bar.elements[1]);
  }

  async #press() {
    const question = this.#bar.option("cancelConfirm");
    if (this.#isSending || (typeof question === "string" && !confirm(question))) return;
    this.#isSending = true;
    this.#error = "";
    this.#draw();
    const before = this.#answer;
    const { src } = this.#bar;
    const { error, answer } = await this.#send().catch(() => ({ error: "cancelFailed" }));
    this.#isSending = false;
    // In the meantime the bar may have switched to another message, or may have received a newer answer.
    const isSame = this.#bar.src === src && this.#answer?.id === before?.id;
    if (isSame && error) this.#error = this.#text(error);
    this.#errorAt = performance.now();
    if (isSame && answer && !(answer.version < this.#answer.version)) this.#answer = answer;
    // The next answer shows the outcome, so request it now. This removes the bar's notes.
    if (isSame) this.#bar.restart();
    this.#draw();
  }

  /** Sends the cancel request. Returns the server's answer or the name of an error's text. */
  async #send() {
    const url = new URL(this.#bar.option("cancel"), location.href);
    // The token must not be sent to another site.
    if (url.origin !== location.origin) return { error: "cancelForbidden" };
    const request = new Request(url, {
      method: "POST",
      body: new URLSearchParams({ csrfmiddlewaretoken: this.#token() }),
      headers: { Accept: "application/json" },
      signal: timeLimit(),
    });
    const response = await this.#bar.fetch(request);
    // To a page for signing in.
    if (response.redirected) return { error: "cancelForbidden" };
    return response.ok ? { answer: await response.json() } : { error: ERRORS[response.status] ?? "cancelFailed" };
  }

  /** Read from the cookie if possible: a login in another tab changes the token. */
  #token() {
    const name = this.#bar.option("csrfCookie");
    const cookie = document.cookie.split("; ").find((each) => each.startsWith(`${name}=`));
    return cookie ? cookie.slice(name.length + 1) : this.#bar.option("csrf") || "";
  }
}

const timeLimit = () => AbortSignal.timeout(REQUEST_LIMIT_SECONDS * 1000);

function focus(message) {
  if (!message) return;
  message.tabIndex = -1;
  message.focus();
}
