// The one slider that moves all tiles: by hand, by arrow keys, by itself.

import { h, number, setText, svg } from "./dom.js";

// Drawn rather than written: not every font has these signs.
const ICONS = {
  first: "M4 3v10M13 3 6 8l7 5z",
  back: "M11 3 4 8l7 5z",
  play: "M4 2.5v11L14 8z",
  pause: "M4.5 3h2v10h-2zM9.5 3h2v10h-2z",
  on: "M5 3l7 5-7 5z",
  last: "M12 3v10M3 3l7 5-7 5z",
};
const SPEEDS = [2, 4, 8, 16, 32];

export class Player {
  constructor(app) {
    this.app = app;
    this.steps = [];
    this.playing = false;
    this.slider = h("input", { type: "range", min: 0, step: 1, "aria-label": "step", oninput: () => this.go(Number(this.slider.value)) });
    this.place = h("output", { class: "place" });
    this.play = h("button", { class: "play", title: "play or pause (space)", onclick: () => this.toggle() });
    this.speed = h(
      "select",
      { "aria-label": "looks per second", onchange: () => app.change({ speed: Number(this.speed.value) }) },
      ...SPEEDS.map((speed) => h("option", { value: speed }, `${speed} / s`)),
    );
    this.follow = h("input", { type: "checkbox", onchange: () => this.#setFollow() });
    const button = (name, title, move) => h("button", { title, "aria-label": title, onclick: move }, icon(name));
    this.element = h(
      "div",
      { class: "player" },
      button("first", "first step (Home)", () => this.go(0)),
      button("back", "step back (←)", () => this.move(-1)),
      this.play,
      button("on", "step on (→)", () => this.move(1)),
      button("last", "newest step (End)", () => this.go(Infinity)),
      this.slider,
      this.place,
      this.speed,
      app.source.live ? h("label", { class: "follow", title: "go to each new look as it comes" }, this.follow, "follow") : null,
    );
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  get index() {
    const { step } = this.app.state;
    let index = 0;
    this.steps.forEach((own, n) => own <= step && (index = n));
    return index;
  }

  /** Show where we are on these steps. */
  show(steps, look) {
    this.steps = steps;
    const { index } = this;
    this.slider.max = Math.max(0, steps.length - 1);
    this.slider.value = index;
    this.slider.disabled = steps.length < 2;
    const text = look ? `step ${number(steps[index])} · epoch ${look.epoch} · look ${index + 1} of ${steps.length}` : "no look yet";
    setText(this.place, text);
    this.slider.setAttribute("aria-valuetext", text);
    this.speed.value = this.app.state.speed;
    this.follow.checked = this.app.state.follow;
    this.#showPlay();
  }

  #showPlay() {
    const name = this.playing ? "pause" : "play";
    if (this.play.dataset.icon === name) return;
    this.play.dataset.icon = name;
    this.play.setAttribute("aria-label", name);
    this.play.replaceChildren(icon(name));
  }

  move(by) {
    this.go(this.index + by);
  }

  /** Go to a place on the slider; leaving the newest look by hand stops following the run. */
  go(index) {
    const last = this.steps.length - 1;
    if (last < 0) return;
    const place = Math.max(0, Math.min(last, index));
    this.app.change({ step: this.steps[place], follow: this.app.state.follow && place === last });
  }

  toggle() {
    this.playing = !this.playing && this.steps.length > 1;
    if (this.playing) {
      if (this.index === this.steps.length - 1) this.go(0);
      this.#tick(performance.now());
    }
    this.app.change({});
  }

  #tick(since) {
    requestAnimationFrame((now) => {
      if (!this.playing) return;
      const due = Math.floor(((now - since) * this.app.state.speed) / 1000);
      if (due > 0) {
        this.move(due);
        if (this.index === this.steps.length - 1) {
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
    this.app.change(follow ? { follow, step: this.steps.at(-1) ?? null } : { follow });
  }

  #key(event) {
    const own = event.target.closest?.("select, input:not([type=range]):not([type=checkbox])");
    if (own || event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 10 : 1;
    const other = event.target.closest?.("input, button, summary, [role=tab]");
    const actions = {
      ArrowLeft: () => this.move(-far),
      ArrowRight: () => this.move(far),
      Home: () => this.go(0),
      End: () => this.go(Infinity),
      " ": () => this.toggle(),
    };
    // an opacity slider keeps its arrows, a button, a box and a fold their space
    if (!(event.key in actions) || (other && other !== this.slider && (event.key === " " || other.type === "range"))) return;
    event.preventDefault();
    actions[event.key]();
  }
}

function icon(name) {
  return svg("svg", { viewBox: "0 0 16 16", class: "icon" }, svg("path", { d: ICONS[name] }));
}
