/** Types of dramatiq-progress.js. What the names mean: docs/bar.md; the JSON: docs/json.md. */

export type LiveState = "enqueued" | "delayed" | "running" | "retrying" | "lost";
export type FinalState = "done" | "failed" | "cancelled" | "skipped";
/** The states of a message, and what the bar itself says in their place. */
export type BarState = LiveState | FinalState | "waiting" | "not-found" | "expired";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface ProgressNumbers {
  pending: boolean;
  current: number;
  total: number | null;
  percent: number | null;
  description: string;
}

/** What the server answers about one message. */
export interface Answer {
  id: string;
  actor: string;
  queue: string;
  state: LiveState | FinalState;
  complete: boolean;
  success: boolean | null;
  progress: ProgressNumbers;
  attempt: number;
  retries_left: number | null;
  retry_in: number | null;
  queue_position: number | null;
  queue_length: number | null;
  elapsed: number | null;
  rate: number | null;
  eta: number | null;
  cancel_requested: boolean;
  can_cancel: boolean;
  metadata: { [key: string]: Json };
  version: number;
  poll_after: number;
  /** Only when `complete`. */
  result?: Json;
}

/** What the server answers about many messages. */
export interface AnswerList {
  messages: Answer[];
  unknown: string[];
}

/** An answer as it is drawn. */
export interface View extends Answer {
  finished: boolean;
  current: number;
  total: number | null;
  percent: number | null;
  description: string;
}

export interface Trouble {
  /** Undefined when none came; with a status of 200 it was no progress. */
  response: Response | undefined;
}

export interface ProgressEvents {
  progress: CustomEvent<Answer>;
  done: CustomEvent<Answer>;
  failed: CustomEvent<Answer>;
  trouble: CustomEvent<Trouble>;
}

export interface Texts {
  locale: string;
  label: string;
  waiting: string;
  "not-found": string;
  expired: string;
  denied: string;
  offline: string;
  enqueued: string;
  position: string;
  delayed: string;
  running: string;
  amount: string;
  count: string;
  remaining: string;
  retryIn: string;
  retryNow: string;
  attempt: string;
  attemptOf: string;
  lost: string;
  done: string;
  failed: string;
  cancelled: string;
  skipped: string;
  download: string;
  retry: string;
  yes: string;
  no: string;
  /** What the server itself says of an end: its English, and what is said in place of it. */
  results: [english: string, text: string][];
}

/** What the button that cancels says, where the page says otherwise than dramatiq-progress-cancel.js. */
interface CancelTexts {
  cancel: string;
  cancelling: string;
  cancelForbidden: string;
  cancelGone: string;
  cancelRefused: string;
  cancelFailed: string;
}

export const TEXTS: Texts & Partial<CancelTexts>;

type Place = HTMLElement | null | undefined;
type Handler<Values extends unknown[]> = (this: ProgressBar, bar: Place, message: Place, ...values: Values) => void;

export interface ProgressBarOptions {
  /** Milliseconds; without it the server says when to ask again. */
  pollInterval?: number;
  /** Where all bars of a page may ask in one request. */
  list?: string;
  /** Where changes are streamed, for bars with a `list`. */
  stream?: string;
  /** The address of dramatiq-progress-stream.js; without it, the file beside this module. */
  streamModule?: string;
  /** The address of dramatiq-progress-result.js; without it, the file beside this module. */
  resultModule?: string;
  /** Where a message is cancelled by POST: makes a button for those who may. */
  cancel?: string;
  /** The address of dramatiq-progress-cancel.js; without it, the file beside this module. */
  cancelModule?: string;
  /** Where the button goes. */
  cancelElement?: HTMLElement | null;
  /** What is asked before. */
  cancelConfirm?: string;
  /** The name of the cookie with Django's CSRF token; where scripts cannot read it, the token itself. */
  csrfCookie?: string;
  csrf?: string;
  /** `auto` uses the stream where there is one. */
  transport?: "auto" | "poll";
  progressBarId?: string;
  progressBarElement?: HTMLElement | null;
  progressBarMessageId?: string;
  progressBarMessageElement?: HTMLElement | null;
  resultElementId?: string;
  resultElement?: HTMLElement | null;
  barColors?: Partial<Record<"progress" | "success" | "error" | "ignored" | BarState, string>>;
  defaultMessages?: Partial<Texts & CancelTexts> & { started?: string };
  showResult?: boolean;
  redirect?: boolean;
  /** The link's text, or true for "Download". */
  download?: boolean | string;
  /** Where the page has HTML to show when the message is done. */
  swap?: string;
  /** Where a person tries again. */
  retry?: string;
  /** Other origins whose addresses may be followed and linked. */
  origins?: string | string[];
  onProgress?: Handler<[progress: ProgressNumbers]>;
  onSuccess?: Handler<[result: Json]>;
  onError?: Handler<[text: string, response?: Response]>;
  onTaskError?: Handler<[text: string]>;
  onNetworkError?: Handler<[text: string, response: undefined]>;
  onHttpError?: Handler<[text: string, response: Response | undefined]>;
  onDataError?: Handler<[text: string, response: Response]>;
  onRetry?: Handler<[text: string, seconds: number]>;
  onIgnored?: Handler<[text: string]>;
  onResult?: (this: ProgressBar, element: Place, result: Json) => void;
}

/** What both bars have. */
interface Bar {
  readonly state: BarState;
  readonly texts: Texts & Partial<CancelTexts>;
  /** The bar, the message and the result. */
  readonly elements: [Place, Place, Place];
  option(name: string): unknown;
  /** Asks from now on, and begins anew after a change of `src`. */
  start(): void;
  stop(): void;
  /** Starts again what has not been stopped, after a change of its options. */
  restart(): void;
  /** Whether this is what it shows: neither stopped nor turned to something else. */
  shows(view: View): boolean;
  request(signal: AbortSignal, url?: string): Request;
  fetch(request: Request): Promise<Response>;
  follow(address: string): void;
  draw(state: BarState, text: string, view: View | null): void;
  /** An empty text is the end of the trouble. */
  drawTrouble(text: string): void;
}

export interface ProgressBar extends Bar {}
export class ProgressBar extends EventTarget {
  constructor(src: string, options?: ProgressBarOptions);
  src: string;
  addEventListener<Type extends keyof ProgressEvents>(
    type: Type,
    listener: (event: ProgressEvents[Type]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

export interface DramatiqProgress extends Bar {}
export class DramatiqProgress extends HTMLElement {
  static observedAttributes: string[];
  /** The element's own bar, message and result. */
  readonly parts: [HTMLElement, HTMLElement, HTMLElement];
  src: string;
  connectedCallback(): void;
  disconnectedCallback(): void;
  attributeChangedCallback(name: string, before: string | null, after: string | null): void;
  addEventListener<Type extends keyof ProgressEvents>(
    type: Type,
    listener: (event: ProgressEvents[Type]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener<Type extends Exclude<keyof HTMLElementEventMap, keyof ProgressEvents>>(
    type: Type,
    listener: (event: HTMLElementEventMap[Type]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "dramatiq-progress": DramatiqProgress;
  }
}
