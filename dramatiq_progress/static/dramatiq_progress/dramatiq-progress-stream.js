/**
 * The event stream of a page: pushes changes to the page's poller and, when it breaks, lets the poller poll.
 * dramatiq-progress.js loads it if an ASGI server can stream. Reference: docs/bar.md.
 */

/** A browser shares six HTTP/1.1 connections to a host among all its tabs. */
const STREAMING_TABS = 4;
/** The server's limit of messages per stream. */
const MESSAGE_LIMIT = 100;
/** Minimum wait before a tab without a slot or without a stream retries. The maximum is twice as long. */
const RETRY_SECONDS = 30;
/** Minimum time between two changes of a bar. A change is a transition of 0.3 s, so more frequent ones aren't seen. */
const DRAW_SECONDS = 0.25;
/**
 * Maximum of bars that are drawn in one frame, and minimum time between two such frames, so that a page with 100 bars has 60
 * frames a second. Twelve: a frame in which anything changes costs about as much as drawing ten bars.
 */
const DRAWS_PER_FRAME = 12;
const FRAME_SECONDS = 1 / 15;
/** Bars that are added within this time share one request. */
const GATHER_SECONDS = 0.1;

export class Stream {
  static #ofPage = null;
  #url;
  #poller;
  #timer;
  #source = null;
  #release = null;
  #isWanted = false;
  #hasReceived = false;
  /** The newest answer of each message that isn't drawn yet, by its id. */
  #received = new Map();
  /** When each message may be drawn again, by its id. */
  #drawAt = new Map();
  #drawTimer;

  /**
   * `poller.ids` are the messages to watch. `poller.isNew(answer)` is false if the stream missed a change.
   * `poller.receive(answers)` draws them.
   * `poller.resume(seconds)` polls all messages after this time.
   */
  constructor(url, poller) {
    this.#url = url;
    this.#poller = poller;
  }

  /** Streams all messages of the poller. Call it again when they have changed. */
  open(seconds = GATHER_SECONDS) {
    this.#isWanted = true;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.#release ? this.#connect() : this.#requestSlot(1)), seconds * 1000);
  }

  /** Closes the stream and releases its slot to another tab. */
  close() {
    this.#isWanted = this.#hasReceived = false;
    clearTimeout(this.#timer);
    clearTimeout(this.#drawTimer);
    this.#received.clear();
    this.#source?.close();
    this.#release?.();
    if (Stream.#ofPage === this) Stream.#ofPage = null;
    this.#source = this.#release = null;
  }

  /** Polls instead of streaming, and retries later. */
  leave() {
    this.#poll();
    this.close();
    this.open(RETRY_SECONDS * (1 + Math.random()));
  }

  async #requestSlot(slot) {
    if (!self.EventSource) return;
    const take = (lock) => {
      if (!lock) return false;
      return new Promise((release) => this.#start(release));
    };
    if (slot > STREAMING_TABS) return this.leave();
    // Without Web Locks (a page without HTTPS) tabs can't coordinate. A page that is being closed gets no lock either.
    const name = `dramatiq-progress-stream-${slot}`;
    const found = await navigator.locks?.request(name, { ifAvailable: true }, take).catch(() => null);
    if (found === false && this.#isWanted) this.#requestSlot(slot + 1);
  }

  #start(release) {
    // One stream per page, even if the page has several pollers.
    if (!this.#isWanted || this.#release || Stream.#ofPage) return release();
    Stream.#ofPage = this;
    this.#release = release;
    this.#connect();
  }

  #connect() {
    const ids = this.#poller.ids.slice(0, MESSAGE_LIMIT);
    const source = new EventSource(`${this.#url}?id=${ids.join("&id=")}`);
    this.#source?.close();
    this.#source = source;
    source.onmessage = ({ data }) => {
      this.#hasReceived = true;
      this.#receive(JSON.parse(data));
    };
    source.addEventListener("store_unavailable", () => this.#poll());
    source.onerror = () => {
      // An EventSource reconnects when a stream ends, but not after an unexpected status or content type.
      if (source.readyState === EventSource.CLOSED) this.leave();
      else this.#poll();
    };
  }

  #receive(answer) {
    if (!this.#poller.isNew(answer)) return this.leave();
    // A newer answer has the turn of the one that it replaces.
    this.#received.set(answer.id, answer);
    if (this.#received.size === 1) this.#drawLater();
  }

  #drawLater(after = 0) {
    const at = Math.min(...[...this.#received.keys()].map((id) => this.#drawAt.get(id) ?? 0));
    const wait = Math.max(at - performance.now(), after);
    this.#drawTimer = setTimeout(() => requestAnimationFrame((now) => this.#draw(now)), wait);
  }

  #draw(now) {
    const isDue = ({ id }) => !(now < this.#drawAt.get(id));
    const due = [...this.#received.values()].filter(isDue).slice(0, DRAWS_PER_FRAME);
    for (const { id } of due) {
      this.#received.delete(id);
      this.#drawAt.set(id, now + DRAW_SECONDS * 1000);
    }
    if (due.length) this.#poller.receive(due);
    if (this.#received.size) this.#drawLater(FRAME_SECONDS * 1000);
  }

  /** Polls once per break: each failed reconnection is another error, and the poller has its own back-off. */
  #poll() {
    if (this.#hasReceived) this.#poller.resume(Math.random());
    this.#hasReceived = false;
  }
}
