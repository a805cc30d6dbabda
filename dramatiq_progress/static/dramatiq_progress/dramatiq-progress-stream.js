/**
 * The event stream of a page, loaded by dramatiq-progress.js where an ASGI server can stream. It tells the page's poller of
 * each change, and lets it poll when it cannot. Reference: docs/bar.md.
 */

/** A browser allows all its tabs six HTTP/1.1 connections to a host. */
const TABS_MOST = 4;
/** How soon a tab tries again that got no place or no stream; up to twice of it, by chance. */
const AGAIN_SECONDS = 30;
/** Bars that come together, or one soon after the other, share an opening. */
const GATHER_SECONDS = 0.1;

export class Stream {
  static #ofPage = null;
  #url;
  #poller;
  #timer;
  #source = null;
  #release = null;
  #isWanted = false;
  #hasTold = false;

  /** The poller's `ids()` are those to watch, `hear(answer)` says whether to go on, `poll()` asks for all of them. */
  constructor(url, poller) {
    this.#url = url;
    this.#poller = poller;
  }

  /** Streams what there is to watch; once more, when that has changed. */
  open(seconds = GATHER_SECONDS) {
    this.#isWanted = true;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.#release ? this.#listen() : this.#takePlace(1)), seconds * 1000);
  }

  /** Ends it, and lets another tab have its place. */
  close() {
    this.#isWanted = this.#hasTold = false;
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#release?.();
    if (Stream.#ofPage === this) Stream.#ofPage = null;
    this.#source = this.#release = null;
  }

  /** Gives it up for a while. */
  leave() {
    this.#distrust();
    this.close();
    this.open(AGAIN_SECONDS * (1 + Math.random()));
  }

  async #takePlace(place) {
    if (!self.EventSource) return;
    const take = (lock) => {
      if (!lock) return false;
      return new Promise((release) => this.#begin(release));
    };
    if (place > TABS_MOST) return this.leave();
    // Without Web Locks (a page without HTTPS) tabs cannot agree. And none is given in a page that is going away.
    const name = `dramatiq-progress-stream-${place}`;
    const found = await navigator.locks?.request(name, { ifAvailable: true }, take).catch(() => null);
    if (found === false && this.#isWanted) this.#takePlace(place + 1);
  }

  #begin(release) {
    // A page has one stream, whatever bars it has.
    if (!this.#isWanted || this.#release || Stream.#ofPage) return release();
    Stream.#ofPage = this;
    this.#release = release;
    this.#listen();
  }

  #listen() {
    const source = new EventSource(`${this.#url}?id=${this.#poller.ids().join("&id=")}`);
    this.#source?.close();
    this.#source = source;
    source.onmessage = ({ data }) => {
      this.#hasTold = true;
      if (!this.#poller.hear(JSON.parse(data))) this.leave();
    };
    source.addEventListener("store_unavailable", () => this.#distrust());
    source.onerror = () => {
      // It comes again by itself after an end, but never after a status or a content type that it does not like.
      if (source.readyState === EventSource.CLOSED) this.leave();
      else this.#distrust();
    };
  }

  /** Once after it has told something: each vain try to come again is an error, and polls keep their own pace. */
  #distrust() {
    if (this.#hasTold) this.#poller.poll();
    this.#hasTold = false;
  }
}
