// The CAM Timeline page. TensorBoard imports this module and calls render(); the report calls start().

import { Charts } from "./chart.js";
import { Controls } from "./controls.js";
import { h, setText } from "./dom.js";
import { Enlarged } from "./enlarge.js";
import { commonFolder, fitted, inOrder } from "./names.js";
import { Player } from "./player.js";
import { Timeline } from "./record.js";
import { serverSource } from "./source.js";
import { keep, restore } from "./state.js";
import { TileBoard } from "./tiles.js";
import { allSteps, arrange, comparedRuns, shownTimelines } from "./views.js";

const RUN_WIDTH = 185; // pixels of a run's name in its select
const POLL = 2000; // milliseconds between two looks for news while the page can be seen

const NO_LOOK =
  "No look yet: the first one comes with the next validation. If none comes then, the log of the training says why.";
const ONE_RUN = "Only one run has a look here. Runs under the same log directory can be compared.";
const ONE_METHOD = 'Only one method here. The callback takes several: methods=["hirescam", "gradcam"].';

/** Called by TensorBoard, which loads nothing but this module. */
export async function render() {
  // Captions are cut to what fits in the style's font.
  await new Promise((done) => {
    document.head.append(h("link", { rel: "stylesheet", href: "static/style.css", onload: done, onerror: done }));
  });
  return start(serverSource());
}

/** Build the page and show what the source has. */
export async function start(source) {
  followTheme();
  const app = new App(source);
  document.body.append(app.element);
  await app.load();
  const poll = async () => {
    if (document.visibilityState === "visible") await app.load();
    setTimeout(poll, POLL);
  };
  if (source.live) setTimeout(poll, POLL);
}

class App {
  constructor(source) {
    this.source = source;
    this.listed = [];
    this.timelines = new Map();
    this.state = restore(null);
    this.loading = Promise.resolve();
    this.message = h("div", { class: "message", role: "status", hidden: true });
    this.controls = new Controls(this);
    this.player = new Player(this);
    this.enlarged = new Enlarged(this);
    this.board = new TileBoard(this, (tile) => this.enlarged.open(tile));
    this.charts = new Charts((step) => this.player.go(nearest(this.player.steps, step)));
    this.element = h(
      "div",
      { class: "page" },
      h("header", { class: "bar-top" }, h("h1", {}, "CAM Timeline"), this.controls.tabs),
      this.controls.element,
      h("main", {}, this.message, this.board.element),
      h("footer", {}, this.player.element, this.charts.element),
      this.enlarged.element,
    );
  }

  /** Change what is shown; everything else follows from the state. */
  change(patch) {
    Object.assign(this.state, patch);
    this.#settle();
    if (this.key) keep(this.key, this.state);
    this.#redrawSoon();
    if (patch.timeline || patch.runs || patch.view) this.load();
  }

  /** Ask for news: new records, new looks. One after the other, so that no record is read twice at a time. */
  load() {
    this.loading = this.loading.then(() => this.#load());
    return this.loading;
  }

  async #load() {
    try {
      const { logdir, timelines } = await this.source.list();
      if (!this.key) {
        this.key = `lightning-cam ${logdir}`;
        this.state = restore(this.key);
      }
      const listing = () => JSON.stringify(this.listed.map(({ id, empty }) => [id, empty]));
      const before = listing();
      this.#list(timelines);
      const newest = [...timelines].sort((a, b) => b.modified - a.modified)[0];
      if (!this.timelines.has(this.state.timeline)) this.state.timeline = newest?.id ?? null;
      const wanted = this.state.view === "runs" ? comparedRuns(this) : [this.state.timeline];
      const changed = await Promise.all(this.listed.filter(({ id }) => wanted.includes(id)).map((entry) => this.#read(entry)));
      this.failure = null;
      if (!changed.some(Boolean) && listing() === before && this.drawn) return;
    } catch (error) {
      this.failure = `The records cannot be read: ${error.message}`;
    }
    this.#settle();
    this.redraw();
  }

  #list(timelines) {
    this.listed = [...timelines].sort((a, b) => inOrder(a.run, b.run) || inOrder(a.file, b.file));
    for (const entry of timelines) {
      if (this.timelines.get(entry.id)?.uid !== entry.uid) this.timelines.set(entry.id, new Timeline(entry));
    }
    const times = (run) => timelines.filter((entry) => entry.run === run).length;
    const folder = commonFolder(timelines.map(({ run }) => run));
    for (const { id, run, file } of timelines) {
      const fullName = times(run) > 1 || file !== "cam" ? `${run} · ${file}` : run;
      Object.assign(this.timelines.get(id), { fullName, label: fullName.slice(folder.length) });
    }
    const all = this.listed.map(({ id }) => this.timelines.get(id));
    const short = fitted(all.map(({ label }) => label), RUN_WIDTH, this.controls.element);
    for (const timeline of all) timeline.short = short.get(timeline.label);
  }

  async #read(entry) {
    const timeline = this.timelines.get(entry.id);
    if (timeline.error || entry.bytes <= timeline.offset) return false;
    if (!timeline.feed(await this.source.read(entry.id, timeline.offset))) return false;
    await timeline.decodeImages();
    return true;
  }

  /** Make the state fit the data: a method and a step that exist. */
  #settle() {
    const { state } = this;
    const timelines = shownTimelines(this);
    const methods = timelines[0]?.methods ?? [];
    if (methods.length && !methods.includes(state.method)) state.method = methods[0];
    const steps = allSteps(timelines);
    if (steps.length && (state.step === null || state.follow)) state.step = steps.at(-1);
    if (state.follow && this.player.playing) state.follow = false;
  }

  #redrawSoon() {
    this.pending ??= requestAnimationFrame(() => this.redraw());
  }

  redraw() {
    this.pending = null;
    const start = performance.now();
    this.drawn = true;
    const arrangement = arrange(this);
    const { timelines } = arrangement;
    const steps = allSteps(timelines);
    const { state } = this;
    this.#say(timelines);
    this.controls.show();
    this.player.show(steps, timelines[0]?.looks[timelines[0].lookAt(state.step)]);
    this.board.show(arrangement);
    this.enlarged.show(timelines, this.board.style);
    this.charts.element.hidden = !state.charts || !steps.length;
    if (!this.charts.element.hidden) {
      this.charts.show(timelines, state.view === "methods" ? timelines[0].methods : [state.method], steps, state.step);
    }
    performance.clearMeasures("cam-redraw"); // the newest one is for whoever wants to know: benchmarks/review.py
    performance.measure("cam-redraw", { start });
  }

  /** Say what is missing, if anything is. */
  #say(shown) {
    const wanted = this.state.view === "runs" ? comparedRuns(this) : [this.state.timeline];
    const errors = wanted.map((id) => this.timelines.get(id)).filter((timeline) => timeline?.error);
    const texts = errors.map(({ label, error }) => `${label}: ${error}`);
    if (this.failure) texts.push(this.failure);
    if (!texts.length && !this.listed.length) texts.push("No CAM timeline here yet. The callback writes one at its first validation.");
    else if (!texts.length && !shown.length) {
      const unread = this.listed.some(({ id, bytes }) => wanted.includes(id) && bytes > 0 && !this.timelines.get(id).offset);
      const unticked = !wanted.length && this.listed.some(({ empty }) => !empty);
      texts.push(unread ? "Reading the record …" : unticked ? "No run is ticked." : NO_LOOK);
    } else if (!texts.length) texts.push(...alone(this, shown));
    setText(this.message, texts.join("\n"));
    this.message.hidden = !texts.length;
  }
}

/** Say how to get more to compare where there is just one. */
function alone({ state, listed }, [timeline]) {
  if (state.view === "runs" && listed.filter(({ empty }) => !empty).length === 1) return [ONE_RUN];
  return state.view === "methods" && timeline.methods.length === 1 ? [ONE_METHOD] : [];
}

function nearest(steps, step) {
  let best = 0;
  steps.forEach((own, n) => Math.abs(own - step) < Math.abs(steps[best] - step) && (best = n));
  return best;
}

/** Take over TensorBoard's light or dark theme; elsewhere the system's. */
function followTheme() {
  const root = document.documentElement;
  const host = globalThis.parent === globalThis ? null : globalThis.parent.document.body;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    root.dataset.theme = (host ? host.classList.contains("dark-mode") : system.matches) ? "dark" : "light";
  };
  if (host) new MutationObserver(apply).observe(host, { attributes: true, attributeFilter: ["class"] });
  else system.addEventListener("change", apply);
  apply();
}
