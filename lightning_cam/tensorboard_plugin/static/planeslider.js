// The second slider: it goes through the slices of volumes, the frames of videos, the instances of bags.

import { html, setText } from "./dom.js";
import { chosenWords, nearestPlane } from "./planes.js";

const TITLES = { slice: "Slice", frame: "Frame", instance: "Instance" };

export class PlaneSlider {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {import("./planes.js").Planes | undefined} */
    this.planes = undefined;
    this.title = html("span", { "aria-hidden": "true" });
    this.slider = html("input", { type: "range", min: 0, step: 1, oninput: () => this.#go(Number(this.slider.value)) });
    this.place = html("output");
    this.reset = html("button", { type: "button", class: "small", onclick: () => this.#go(0) });
    this.element = html("div", { class: "plane-slider", hidden: true }, this.title, this.slider, this.place, this.reset);
  }

  /** @param {import("./timeline.js").Timeline | undefined} timeline */
  show(timeline) {
    const planes = (this.planes = timeline?.probe.planes);
    this.element.hidden = !planes;
    if (!planes) return;
    const { state } = this.app;
    const text = chosenWords(state, planes);
    setText(this.title, TITLES[planes.kind]);
    setText(this.place, text);
    setText(this.reset, planes.kind === "slice" ? "most evidence" : "all");
    this.reset.title = `${planes.kind === "slice" ? "show of each image the slice with most evidence" : `show all ${planes.kind}s`} (m)`;
    this.reset.hidden = state.plane === null;
    this.slider.max = String(planes.numbers.length);
    this.slider.value = String(this.#index);
    this.slider.title = `go through the ${planes.kind}s (, and .)`;
    this.slider.setAttribute("aria-label", planes.kind);
    this.slider.setAttribute("aria-valuetext", text);
  }

  /** The place on the slider; 0 where none is chosen. */
  get #index() {
    const { plane } = this.app.state;
    return plane === null || !this.planes ? 0 : nearestPlane(this.planes, plane) + 1;
  }

  /** @param {number} by */
  move(by) {
    this.#go(this.#index + by);
  }

  /** Show no chosen plane, but what leads. */
  clear() {
    this.#go(0);
  }

  /** @param {number} index */
  #go(index) {
    if (!this.planes) return;
    const { numbers } = this.planes;
    this.app.change({ plane: numbers[Math.min(index, numbers.length) - 1] ?? null });
  }
}
