// The one slider that moves all tiles: by hand, by arrow keys, by itself.

import { html, setText, svg } from "./dom.js";
import { formatEpoch, formatNumber } from "./text.js";
import { countUntil } from "./views.js";

// Drawn rather than written: not every font has these signs.
/** @type {Record<string, string>} */
const ICONS = {
  first: "M4 3v10M13 3 6 8l7 5z",
  back: "M11 3 4 8l7 5z",
  play: "M4 2.5v11L14 8z",
  pause: "M4.5 3h2v10h-2zM9.5 3h2v10h-2z",
  forward: "M5 3l7 5-7 5z",
  last: "M12 3v10M3 3l7 5-7 5z",
  loop: "M12.5 6A5 5 0 1 0 13 9M13 2.5V6H9.5",
};
const SPEEDS = [0.5, 1, 2, 4, 8, 16, 32];

export class Player {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {number[]} */
    this.steps = [];
    this.playing = false;
    this.slider = html("input", {
      type: "range",
      min: 0,
      step: 1,
      "aria-label": "step",
      oninput: () => this.go(Number(this.slider.value)),
    });
    /** @type {import("./marks.js").Mark[]} */
    this.marks = [];
    this.marksKey = "";
    this.markLayer = html("div", { class: "marks" });
    this.told = html("span", { class: "mark-told" });
    this.loop = html("button", { class: "loop", title: "restart at the end", "aria-label": "loop", onclick: () => app.change({ loop: !app.state.loop }) }, icon("loop"));
    this.place = html("output", { class: "place" });
    this.playButton = html("button", { class: "play", title: "play or pause (space)", onclick: () => this.toggle() });
    this.speed = html(
      "select",
      { "aria-label": "looks per second", onchange: () => app.change({ speed: Number(this.speed.value) }) },
      ...SPEEDS.map((speed) => html("option", { value: speed }, `${speed} / s`)),
    );
    this.follow = html("input", { type: "checkbox", onchange: () => this.#setFollow() });
    this.element = html(
      "div",
      { class: "player" },
      moveButton("first", "first step (Home)", () => this.go(0)),
      moveButton("back", "previous step (←)", () => this.move(-1)),
      this.playButton,
      moveButton("forward", "next step (→)", () => this.move(1)),
      moveButton("last", "newest step (End)", () => this.go(Infinity)),
      html("div", { class: "slide" }, this.slider, this.markLayer),
      html("div", { class: "where" }, this.place, this.told),
      this.loop,
      this.speed,
      app.source.live ? html("label", { class: "follow", title: "show each new look as it arrives" }, this.follow, "follow") : null,
    );
    document.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** Where the current step is on the slider. */
  get index() {
    const step = this.app.state.step ?? -Infinity;
    return Math.max(0, countUntil(this.steps, step) - 1);
  }

  /**
   * Show where we are on these steps.
   * @param {number[]} steps
   * @param {import("./record.js").Look | undefined} look the first timeline's current one
   * @param {import("./marks.js").Mark[]} marks
   */
  show(steps, look, marks) {
    this.steps = steps;
    const { index } = this;
    this.slider.max = String(Math.max(0, steps.length - 1));
    this.slider.value = String(index);
    this.slider.disabled = steps.length < 2;
    const text = look ? `step ${formatNumber(steps[index])} · ${formatEpoch(look.epoch)} · look ${index + 1} of ${steps.length}` : "no look yet";
    setText(this.place, text);
    const told = marks.filter(({ step }) => step === steps[index]).map(({ text }) => text).join(" · ");
    setText(this.told, told);
    this.told.title = told;
    this.slider.setAttribute("aria-valuetext", told ? `${text} · ${told}` : text);
    this.#showMarks(marks);
    this.loop.setAttribute("aria-pressed", String(this.app.state.loop));
    this.speed.value = String(this.app.state.speed);
    this.follow.checked = this.app.state.follow;
    this.#showPlayButton();
  }

  /** @param {import("./marks.js").Mark[]} marks */
  #showMarks(marks) {
    const { steps } = this;
    if (marks === this.marks && String(steps.length) === this.marksKey) return;
    this.marks = marks;
    this.marksKey = String(steps.length);
    const known = marks.filter(({ step }) => steps[countUntil(steps, step) - 1] === step);
    const place = (/** @type {number} */ step) => (steps.length > 1 ? (countUntil(steps, step) - 1) / (steps.length - 1) : 0.5);
    this.markLayer.replaceChildren(
      ...known.map(({ step, kind, text }) => {
        const title = `step ${formatNumber(step)}: ${text}`;
        const onclick = () => this.go(countUntil(this.steps, step) - 1);
        return html("button", { type: "button", class: `mark ${kind}`, tabindex: -1, title, "aria-label": title, style: `--at: ${place(step)}`, onclick });
      }),
    );
  }

  /**
   * Go to the next mark, or with -1 to the one before.
   * @param {1 | -1} direction
   */
  toMark(direction) {
    const here = this.steps[this.index];
    const ahead = this.marks.map(({ step }) => step).filter((step) => direction * (step - here) > 0 && this.steps[countUntil(this.steps, step) - 1] === step);
    if (ahead.length) this.go(countUntil(this.steps, direction > 0 ? Math.min(...ahead) : Math.max(...ahead)) - 1);
  }

  #showPlayButton() {
    const name = this.playing ? "pause" : "play";
    if (this.playButton.dataset.icon === name) return;
    this.playButton.dataset.icon = name;
    this.playButton.setAttribute("aria-label", name);
    this.playButton.replaceChildren(icon(name));
  }

  /** @param {number} by */
  move(by) {
    this.go(this.index + by);
  }

  /**
   * Go to a place on the slider; leaving the newest look by hand stops following the run.
   * @param {number} index
   */
  go(index) {
    const last = this.steps.length - 1;
    if (last < 0) return;
    const place = Math.max(0, Math.min(last, index));
    this.app.change({ step: this.steps[place], follow: this.app.state.follow && place === last });
  }

  /** Play or pause; at the end, play from the start. */
  toggle() {
    this.playing = !this.playing && this.steps.length > 1;
    if (this.playing) {
      if (this.index === this.steps.length - 1) this.go(0);
      this.#tick(performance.now());
    }
    this.app.change({});
  }

  /**
   * Move as far as the speed asks for, with each frame of the screen.
   * @param {number} since when it last moved
   */
  #tick(since) {
    requestAnimationFrame((now) => {
      if (!this.playing) return;
      const due = Math.floor(((now - since) * this.app.state.speed) / 1000);
      if (due > 0) {
        if (this.app.state.loop && this.index === this.steps.length - 1) this.go(0);
        else this.move(due);
        if (!this.app.state.loop && this.index === this.steps.length - 1) {
          this.playing = false;
          this.app.change({});
          return;
        }
      }
      this.#tick(due > 0 ? now : since);
    });
  }

  #setFollow() {
    const follow = this.follow.checked;
    this.app.change(follow ? { follow, step: this.steps[this.steps.length - 1] ?? null } : { follow });
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const target = event.target instanceof Element ? event.target : null;
    if (target?.closest("select, textarea, input:not([type=range]):not([type=checkbox])")) return;
    const distance = event.shiftKey ? 10 : 1;
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowLeft: () => this.move(-distance),
      ArrowRight: () => this.move(distance),
      Home: () => this.go(0),
      End: () => this.go(Infinity),
      " ": () => this.toggle(),
      n: () => this.toMark(1),
      p: () => this.toMark(-1),
      ",": () => this.app.planeSlider.move(-1),
      ".": () => this.app.planeSlider.move(1),
      m: () => this.app.planeSlider.clear(),
    };
    if (!(event.key in actions)) return;
    // an opacity slider keeps its arrows, a button, a box and a fold their space
    const control = target?.closest("input, button, summary, [role=tab]");
    const isRange = control instanceof HTMLInputElement && control.type === "range";
    if (control && control !== this.slider && (event.key === " " || isRange)) return;
    event.preventDefault();
    actions[event.key]();
  }
}

/**
 * @param {string} name of the icon
 * @param {string} title
 * @param {() => void} move
 */
function moveButton(name, title, move) {
  return html("button", { title, "aria-label": title, onclick: move }, icon(name));
}

/** @param {string} name */
function icon(name) {
  return svg("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}
