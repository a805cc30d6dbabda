// The module's public API as pages use it. This file is compiled (tests/test_bar_types.py) and never run.
import {
  type Answer,
  type AnswerList,
  type BarState,
  DramatiqProgress,
  type Json,
  ProgressBar,
  type ProgressBarOptions,
  TEXTS,
} from "../dramatiq_progress/static/dramatiq_progress/dramatiq-progress.js";

TEXTS.locale = "de";
Object.assign(TEXTS, { done: "Fertig" });
TEXTS.step = "Teil {index}";
// @ts-expect-error: there is no such text
TEXTS.finished = "Fertig";

const options: ProgressBarOptions = {
  pollInterval: 500,
  progressBarElement: document.getElementById("bar"),
  barColors: { success: "#76ce60", retrying: "orange" },
  defaultMessages: { waiting: "Waiting", started: "Started" },
  origins: ["https://files.example"],
  onProgress(bar, message, { percent, current }) {
    if (bar && percent !== null) bar.style.width = `${percent}%`;
    if (message) message.textContent = `${current.toFixed()} ${this.state}`;
  },
  onHttpError: (bar, message, text, response) => console.error(text.trim(), response?.status),
  onRetry: (bar, message, text, seconds) => console.log(text.trim(), seconds.toFixed()),
  onResult: (element, result: Json) => element?.append(String(result)),
};
const bar = new ProgressBar("/progress/m1/", options);
bar.addEventListener("done", (event) => {
  const answer: Answer = event.detail;
  const total: number | null = answer.progress.total;
  event.preventDefault();
  const name: string | undefined = answer.step?.name;
  console.log(total, name, answer.result);
});
bar.addEventListener("trouble", ({ detail }) => console.log(detail.response?.status));
bar.stop();
// @ts-expect-error: a URL is needed
new ProgressBar();
// @ts-expect-error: milliseconds are a number
new ProgressBar("/progress/m1/", { pollInterval: "500" });

const element = document.createElement("dramatiq-progress");
element.src = "/progress/m1/";
const state: BarState = element.state;
element.addEventListener("failed", (event) => console.log(state, event.detail.state));
element.addEventListener("click", (event) => console.log(event.clientX));

class OwnProgress extends DramatiqProgress {
  override get texts() {
    return { ...TEXTS, locale: "de" };
  }

  override request(signal: AbortSignal, url?: string) {
    const request = super.request(signal, url);
    request.headers.set("X-Requested-By", "me");
    return request;
  }
}
customElements.define("own-progress", OwnProgress);
DramatiqProgress.prototype.follow = (address) => console.log(address.length);

export const many = async (response: Response): Promise<string[]> => ((await response.json()) as AnswerList).unknown;
