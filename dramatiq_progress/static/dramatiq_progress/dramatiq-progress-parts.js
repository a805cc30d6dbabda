/**
 * The step of a message, the members of a group or a pipeline, a wait to continue, a pause, and the usual times: their
 * texts, and the failed part of a bar. dramatiq-progress.js loads it at the first answer that needs it. Reference:
 * docs/bar.md.
 */

export const TEXTS = {
  step: "Step {index} of {count}",
  stepped: "{step}. {text}",
  doneOf: "{done} of {total} done",
  failedOf: "{text}, {failed} failed",
  continues: "Waiting to continue…",
  pausing: "Pausing…",
  begins: "{text}, begins in about {time}",
  usually: "{text}, usually takes about {time}",
  usuallyRange: "{text}, usually takes {from} to {time}",
  usuallyMost: "{text}, usually takes up to {time}",
  longer: "{text}, longer than usual",
};

/** If nine of ten runs take up to this many times as long as half of them, one time says enough. */
const NARROW_SPREAD = 3;

/** The texts of one that waits to continue, or was asked to pause. */
const BREAKS = { enqueued: "continues", delayed: "continues", running: "pausing", paused: "paused" };

/**
 * Returns the text of a message, in the same words as `describe` of web/describing.py. `plain` is the text without this
 * module. The functions are those of dramatiq-progress.js, which can't be imported here: its URL may be hashed.
 */
export function describe(view, texts, plain, format, formatDuration, describeAmount) {
  const own = new Proxy(texts, { get: (_, name) => texts[name] ?? TEXTS[name] });
  const fill = (name, values) => format(own, name, values);
  if (view.finished) return describeOutcome(view, plain, fill);
  const name = view.continues && BREAKS[view.state];
  if (name) return describeBreak(view, own, name, fill, describeAmount);
  const text = view.state === "running" ? describeRun(view, own, plain, fill, describeAmount) : plain;
  return view.usual && view.eta == null ? describeUsual(view, text, fill, (time) => formatDuration(time, own)) : text;
}

const withoutEnd = (text) => text.replace(/[.…:]+$/, "");

const withFailed = (text, { failed }, fill) => (failed ? fill("failedOf", { text, failed }) : text);

function describeOutcome({ state, parts }, plain, fill) {
  if (!(parts?.total > 0) || state === "done") return plain;
  const amount = withFailed(fill("doneOf", parts), parts, fill);
  return state === "failed" ? amount : fill("described", { description: withoutEnd(plain), amount });
}

/** "Waiting to continue: 6,200 of 10,000", or of a pause; in a step, with the text that it had while it ran. */
function describeBreak(view, texts, name, fill, describeAmount) {
  const { current, total, step } = view;
  const description = withoutEnd(texts[name]);
  // What an earlier round did is of no use.
  if (view.progress.pending) return description;
  if (step?.count) return fill("stepped", { step: description, text: describeStep(view, texts, fill, describeAmount) });
  const amount = total == null ? current : fill("amount", { current, total });
  return amount ? fill("described", { description, amount }) : texts[name];
}

function describeRun(view, texts, plain, fill, describeAmount) {
  const { step, parts } = view;
  const text = step?.count ? describeStep(view, texts, fill, describeAmount) : plain;
  return parts ? withFailed(text, parts, fill) : text;
}

function describeStep({ step, parts, ...view }, texts, fill, describeAmount) {
  // A loop without a description of its own may have the step's name.
  const description = view.description === step.name ? "" : view.description;
  // The number of a pipeline's stage says how many have ended.
  const amount = parts ? { current: 0, total: null } : view;
  const text = describeAmount({ ...amount, description }, texts, "");
  const number = fill("step", step);
  const name = withoutEnd(step.name);
  const shown = name ? fill("described", { description: number, amount: name }) : number;
  return text ? fill("stepped", { step: shown, text }) : shown;
}

function describeUsual({ state, queue_position: position, elapsed, usual }, text, fill, formatDuration) {
  const { run, run_most: most, wait } = usual;
  const say = (name, seconds, values) => fill(name, { text, time: formatDuration(rounded(seconds)), ...values });
  if (wait && (position > 1 || !run)) return say("begins", wait);
  if (!run || !most) return text;
  if (state === "running" && elapsed > most) return fill("longer", { text });
  if (most <= NARROW_SPREAD * run) return say("usually", run);
  const unit = unitOf(most);
  // "2 to 10 minutes", but not "20 seconds to 10 minutes".
  if (unitOf(run) !== unit) return say("usuallyMost", most);
  return say("usuallyRange", most, { from: rounded(run) / unit });
}

/** The size of the unit in which a duration is shown, in seconds: as in dramatiq-progress.js. */
const unitOf = (seconds) => (seconds < 60 ? 1 : seconds < 5400 ? 60 : seconds < 129600 ? 3600 : 86400);

/** Up or down, unlike the time left. */
function rounded(seconds) {
  const unit = unitOf(seconds);
  return Math.max(1, Math.round(seconds / unit)) * unit;
}

// The page's rules override these. The room isn't empty: the sign would be below the last line, at its baseline. Its
// order puts it after the text, whose first line the sign and the controls are aligned with.
const sheet = new CSSStyleSheet();
sheet.replaceSync(`
  [part=track] { display: flex; gap: 2px }
  [part=failed] {
    box-sizing: border-box;
    flex: none;
    block-size: var(--_height, 8px);
    min-inline-size: var(--_height, 8px);
    border: 2px solid var(--_failed, #dc2626);
    border-radius: var(--_radius, 4px);
  }
  [part=failed][hidden] { display: none }
  :host(:not([compact], [inline])) [part=words]::before {
    content: var(--dramatiq-progress-reserve, attr(data-longest)) "\\200b";
    grid-area: 1 / 1;
    order: 1;
    max-block-size: calc(3.75em / 0.875);
    overflow: hidden;
    overflow-wrap: anywhere;
    text-wrap: pretty;
    visibility: hidden;
  }
  @media (forced-colors: active) { [part=failed] { border-color: CanvasText } }
  @media (forced-colors: none) { :host([state=failed]) [data-members] { --_color: var(--_done, #15803d) } }
`);

/** Called after the bar has drawn an answer. */
export function draw(bar, view) {
  const { adoptedStyleSheets: sheets } = bar.shadowRoot;
  if (!sheets.includes(sheet)) sheets.push(sheet);
  if (bar.state === "running") reserve(bar.parts);
  // Another message.
  if (bar.state === "waiting") delete bar.parts[1].parentElement.dataset.longest;
  drawFailed(bar, view ?? {});
}

/** Keeps room for the longest text of the run, up to three lines: a time left that comes and goes moves nothing. */
function reserve([, text]) {
  const { dataset } = text.parentElement;
  if (!(dataset.longest?.length >= text.textContent.length)) dataset.longest = text.textContent;
}

/** Draws the failed members as a hollow part at the end of the fill. What the others did keeps its colour. */
function drawFailed(bar, { parts, percent, state }) {
  const [fill] = bar.parts;
  const known = parts?.total > 0 && percent != null;
  const failed = known ? Math.min(percent, (100 * parts.failed) / parts.total) : 0;
  const mark = fill.nextElementSibling ?? (failed && addMark(fill));
  if (!mark) return;
  mark.hidden = !failed;
  mark.style.inlineSize = `${failed}%`;
  fill.toggleAttribute("data-members", failed > 0);
  if (!failed) return;
  fill.style.inlineSize = `${percent - failed}%`;
  // "100%" would say that all is done.
  if (state === "failed" && percent === 100 && !bar.option("compact")) {
    bar.shadowRoot.querySelector("[part=percent]").textContent = "";
  }
}

function addMark(fill) {
  const mark = document.createElement("div");
  mark.setAttribute("part", "failed");
  fill.after(mark);
  return mark;
}
