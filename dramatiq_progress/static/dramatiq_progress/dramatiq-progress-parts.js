/**
 * The text of a message with steps: "Step 2 of 3: Checking. 1,200 of 5,000".
 * dramatiq-progress.js loads it at the first answer that has a step. Reference: docs/bar.md.
 */

export const TEXTS = {
  step: "Step {index} of {count}",
  stepped: "{step}. {text}",
};

/**
 * Returns the text of a running message, in the same words as `_describe_run` of web/noscript.py.
 * `format` and `describeAmount` are those of dramatiq-progress.js, which this module can't import: its URL may be hashed.
 */
export function describe({ step, ...view }, texts, format, describeAmount) {
  const { locale, described } = texts;
  const own = { locale, described, step: texts.step ?? TEXTS.step, stepped: texts.stepped ?? TEXTS.stepped };
  // A loop without a description of its own may have the step's name.
  const description = view.description === step.name ? "" : view.description;
  const text = describeAmount({ ...view, description }, texts, "");
  const number = format(own, "step", step);
  const name = step.name.replace(/[.…:]+$/, "");
  const shown = name ? format(own, "described", { description: number, amount: name }) : number;
  return text ? format(own, "stepped", { step: shown, text }) : shown;
}
