/** Types of dramatiq-progress.js. Reference of the names: docs/bar.md. Reference of the JSON: docs/json.md. */

export type LiveState = "enqueued" | "delayed" | "paused" | "running" | "retrying" | "lost";
export type FinalState = "done" | "failed" | "cancelled" | "skipped";
/** The states of a message, and the three states of the bar itself. */
export type BarState = LiveState | FinalState | "waiting" | "not-found" | "expired";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface ProgressNumbers {
  /** While enqueued, delayed or paused, unless it has run and continues where it was. */
  pending: boolean;
  current: number;
  total: number | null;
  percent: number | null;
  description: string;
}

/** The step that the actor is in, or was in last. Of a pipeline, its stage. */
export interface StepNumbers {
  /** From 1. */
  index: number;
  count: number;
  /** May be empty, and is for a pipeline. */
  name: string;
  /** Of this step. */
  percent: number | null;
}

/** The members of a group or a pipeline, by state. */
export interface Parts {
  total: number;
  waiting: number;
  running: number;
  retrying: number;
  done: number;
  failed: number;
  cancelled: number;
  skipped: number;
}

/** How long it usually takes, in seconds; each is null while unknown. */
export interface UsualTimes {
  /** Half of the past runs took no longer. */
  run: number | null;
  /** Nine of ten past runs took no longer. */
  run_most: number | null;
  /** In the queue, from now on. */
  wait: number | null;
}

/** The server's answer for one message. */
export interface Answer {
  id: string;
  actor: string;
  queue: string;
  state: LiveState | FinalState;
  complete: boolean;
  success: boolean | null;
  progress: ProgressNumbers;
  /** The name of the job for users. */
  title: string;
  /** Null without steps, and before the first. */
  step: StepNumbers | null;
  /** Null for a message, which has no members. */
  parts: Parts | null;
  /** Null while unknown, once `complete`, and while lost or paused. */
  usual: UsualTimes | null;
  attempt: number;
  retries_left: number | null;
  retry_in: number | null;
  queue_position: number | null;
  queue_length: number | null;
  elapsed: number | null;
  rate: number | null;
  eta: number | null;
  cancel_requested: boolean;
  /** Also true while paused. */
  pause_requested: boolean;
  can_cancel: boolean;
  metadata: { [key: string]: Json };
  version: number;
  poll_after: number;
  /** Only when `complete`. */
  result?: Json;
}

/** The server's answer for a list of messages. */
export interface AnswerList {
  messages: Answer[];
  unknown: string[];
}

/** An answer, prepared for drawing. */
export interface View extends Answer {
  finished: boolean;
  /** It has run, and waits to go on where it was; or a pause was requested. */
  continues: boolean;
  current: number;
  total: number | null;
  percent: number | null;
  description: string;
}

export interface Trouble {
  /** Undefined if there was no response. A status of 200 means that the response isn't progress. */
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
  first: string;
  delayed: string;
  paused: string;
  running: string;
  amount: string;
  count: string;
  described: string;
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
  stopped: string;
  download: string;
  retry: string;
  yes: string;
  no: string;
  /** Messages for the user that the server itself makes: its English, and the text to show instead. */
  results: [english: string, text: string][];
}

/** Texts of the cancel button that override those of dramatiq-progress-cancel.js. */
interface CancelTexts {
  cancel: string;
  cancelling: string;
  cancelForbidden: string;
  cancelGone: string;
  cancelRefused: string;
  cancelFailed: string;
}

/** Texts of steps, members, waits to continue, pauses and usual times that override those of dramatiq-progress-parts.js. */
interface PartsTexts {
  step: string;
  stepped: string;
  doneOf: string;
  failedOf: string;
  continues: string;
  pausing: string;
  begins: string;
  usually: string;
  usuallyRange: string;
  usuallyMost: string;
  longer: string;
}

/** All texts; those of the other modules only if the page has set them. */
type AllTexts = Texts & Partial<CancelTexts & PartsTexts>;

export const TEXTS: AllTexts;

type Target = HTMLElement | null | undefined;
type Handler<Values extends unknown[]> = (this: ProgressBar, bar: Target, message: Target, ...values: Values) => void;

export interface ProgressBarOptions {
  /** Polling interval in milliseconds, overriding the server's. */
  pollInterval?: number;
  /** URL of the list view, which answers for all bars of a page in one request. */
  list?: string;
  /** URL of the stream view. Needs `list`. */
  stream?: string;
  /** URL of dramatiq-progress-stream.js. Default: next to this module. */
  streamModule?: string;
  /** URL of dramatiq-progress-result.js. Default: next to this module. */
  resultModule?: string;
  /** URL of dramatiq-progress-parts.js. Default: next to this module. */
  partsModule?: string;
  /** URL of the cancel view. Adds a button for users who may cancel. */
  cancel?: string;
  /** URL of dramatiq-progress-cancel.js. Default: next to this module. */
  cancelModule?: string;
  /** Parent element of the button. */
  cancelElement?: HTMLElement | null;
  /** Text of a confirmation dialog. */
  cancelConfirm?: string;
  /** Name of the cookie with Django's CSRF token. */
  csrfCookie?: string;
  /** The CSRF token, if scripts can't read the cookie. */
  csrf?: string;
  /** `auto`, the default, uses the stream if there is one. */
  transport?: "auto" | "poll";
  progressBarId?: string;
  progressBarElement?: HTMLElement | null;
  progressBarMessageId?: string;
  progressBarMessageElement?: HTMLElement | null;
  resultElementId?: string;
  resultElement?: HTMLElement | null;
  barColors?: Partial<Record<"progress" | "success" | "error" | "ignored" | BarState, string>>;
  defaultMessages?: Partial<AllTexts> & { started?: string };
  showResult?: boolean;
  redirect?: boolean;
  /** The link's text, or true for "Download". */
  download?: boolean | string;
  /** URL of HTML to show when the message is done. */
  swap?: string;
  /** URL of a retry link. */
  retry?: string;
  /** Other origins that may be linked and followed. */
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
  onResult?: (this: ProgressBar, element: Target, result: Json) => void;
}

/** Members of both kinds of bar. */
interface Bar {
  readonly state: BarState;
  readonly texts: AllTexts;
  /** The bar, the message and the result. */
  readonly elements: [Target, Target, Target];
  /** What a person calls the job. */
  readonly name: string;
  option(name: string): unknown;
  /** Starts polling; starts over if `src` has changed. */
  start(): void;
  stop(): void;
  /** Restarts a bar that isn't stopped, after a change of its options. */
  restart(): void;
  /** Whether the bar isn't stopped and still shows this view. */
  shows(view: View): boolean;
  request(signal: AbortSignal, url?: string): Request;
  fetch(request: Request): Promise<Response>;
  follow(address: string): void;
  draw(state: BarState, text: string, view: View | null): void;
  /** Texts that replace the bar's own until the end, by their source. */
  readonly notes: { trouble?: string; cancel?: string };
  /** Shows such a text. An empty one removes it. */
  note(source: "trouble" | "cancel", text: string): void;
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
  /** The element's own bar, message and result. The last two are the same. */
  readonly parts: [HTMLElement, HTMLElement, HTMLElement];
  /** The parent element of the controls. */
  readonly actions: HTMLElement;
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
