// The CAM Timeline page. TensorBoard imports this module and calls render(); the report calls start().

import { Address, copyButton } from "./address.js";
import { Charts } from "./chart.js";
import { Controls, NARROW_PAGE } from "./controls.js";
import { html, setText, textRuler } from "./dom.js";
import { DepthView } from "./depthview.js";
import { EnlargedTile } from "./enlarge.js";
import { knowPins } from "./filters.js";
import { Findings } from "./findings.js";
import { followTheme, takeFocus } from "./host.js";
import { marksOf } from "./marks.js";
import { messagesOf, wantedRecords } from "./messages.js";
import { commonFolder, compareNatural, shortenNames } from "./names.js";
import { Notes } from "./notes.js";
import { Overview } from "./overview.js";
import { decodePictures } from "./pictures.js";
import { PlaneSlider } from "./planeslider.js";
import { Player } from "./player.js";
import { Saver } from "./save.js";
import { readAppended, serverSource } from "./source.js";
import { DEFAULTS, restoreState, saveState } from "./state.js";
import { fittingSize } from "./tilesize.js";
import { TileBoard, drawingStyle } from "./tiles.js";
import { Timeline } from "./timeline.js";
import { readable } from "./text.js";
import { arrange, countUntil, shownTimelines, slideSteps } from "./views.js";

/** @typedef {import("./source.js").Entry} Entry */
/** @typedef {import("./source.js").Source} Source */
/** @typedef {import("./state.js").State} State */

const RUN_WIDTH = 185; // pixels of a run's name in its select
const POLL_INTERVAL = 2000; // milliseconds between two looks for news while the page can be seen

/** @type {import("./marks.js").Mark[]} */
const NO_MARKS = [];
/** What Back goes back over: not each step of the slider. @type {(keyof State)[]} */
const PLACES = ["view", "timeline", "runs", "method", "otherRun", "otherMethod", "otherStep", "reference", "image", "label", "predicted", "show", "sort"];

/** Called by TensorBoard, which loads nothing but this module. */
export async function render() {
  // Captions are cut to what fits in the style's font.
  await new Promise((done) => {
    document.head.append(html("link", { rel: "stylesheet", href: "static/style.css", onload: done, onerror: done }));
  });
  return start(serverSource());
}

/**
 * Build the page and show what the source has.
 * @param {Source} source
 */
export async function start(source) {
  followTheme();
  takeFocus();
  document.title ||= "CAM Timeline";
  document.documentElement.lang ||= "en";
  const app = new App(source);
  document.body.append(app.element);
  await app.load();
  const poll = async () => {
    if (document.visibilityState === "visible") await app.load();
    setTimeout(poll, POLL_INTERVAL);
  };
  if (source.live) setTimeout(poll, POLL_INTERVAL);
}

/** Holds the state and the records; everything on the page is drawn from these. */
export class App {
  /** @param {Source} source */
  constructor(source) {
    this.source = source;
    /** @type {Entry[]} in the order in which they are shown */
    this.listed = [];
    /** @type {string[]} what the source has left out, in words */
    this.notes = [];
    /** @type {Map<string, Timeline>} by id */
    this.timelines = new Map();
    /** @type {State} */
    this.state = { ...DEFAULTS };
    /** @type {string | null} under which the state is stored; known with the first list */
    this.storageKey = null;
    this.loading = Promise.resolve();
    /** @type {string | null} why the last load failed */
    this.failure = null;
    this.drawn = false;
    /** @type {number | null} the redraw that is due with the next frame of the screen */
    this.pendingRedraw = null;
    /** @type {Partial<State>} what was chosen before the first list of records was there */
    this.early = {};
    this.address = new Address((state) => this.#take(state));
    this.message = html("div", { class: "message", role: "status", hidden: true });
    this.controls = new Controls(this);
    this.player = new Player(this);
    this.planeSlider = new PlaneSlider(this);
    this.annotations = new Notes(() => this.change({}));
    knowPins((hash) => this.annotations.of(hash).pinned);
    this.enlarged = new EnlargedTile(this);
    this.board = new TileBoard(this, (tile) => this.enlarged.open(tile));
    this.charts = new Charts(
      (step) => this.player.go(nearestIndex(this.player.steps, step)),
      () => this.change({ allCharts: !this.state.allCharts }),
    );
    this.findings = new Findings(this);
    this.overview = new Overview(this);
    this.depth = new DepthView(this);
    this.saver = new Saver(this);
    this.panel = html("div", { role: "tabpanel", id: "view" }, this.overview.element, this.depth.element, this.board.element);
    this.room = { width: 0, height: 0 }; // CSS pixels for the tiles
    const main = html("main", {}, this.message, this.panel);
    new ResizeObserver(([{ contentRect: { width, height } }]) => {
      const ownHeight = matchMedia(NARROW_PAGE).matches ? innerHeight / 2 : height; // there it is as high as its tiles
      const changed = this.room.width !== width || this.room.height !== ownHeight;
      this.room = { width, height: ownHeight };
      if (changed && this.drawn) this.change({});
    }).observe(main);
    this.element = html(
      "div",
      { class: "page" },
      html("header", { class: "bar-top" }, html("h1", {}, "CAM Timeline"), this.controls.tabs, html("div", { class: "take" }, copyButton(() => this.address.link(this.state)), this.saver.element)),
      this.findings.element,
      this.controls.element,
      main,
      html("footer", {}, this.player.element, this.planeSlider.element, this.charts.element),
      this.enlarged.element,
    );
  }

  /** The records in the order in which they are shown. */
  get listedTimelines() {
    return this.listed.map(({ id }) => /** @type {Timeline} */ (this.timelines.get(id)));
  }

  /**
   * Change what is shown; everything else follows from the state.
   * @param {Partial<State>} patch
   */
  change(patch) {
    const moved = PLACES.some((key) => key in patch && patch[key] !== this.state[key]);
    this.#take(patch);
    if (this.storageKey) this.address.write(this.state, moved);
  }

  /** @param {Partial<State>} patch */
  #take(patch) {
    Object.assign(this.state, patch);
    if (!this.storageKey) Object.assign(this.early, patch);
    this.#settle();
    if (this.storageKey) saveState(this.storageKey, this.state);
    this.pendingRedraw ??= requestAnimationFrame(() => this.redraw());
    if (patch.timeline || patch.runs || patch.otherRun || patch.view) this.load();
  }

  /** Ask for news: new records, new looks. One after the other, so that no record is read twice at a time. */
  load() {
    this.loading = this.loading.then(() => this.#load());
    return this.loading;
  }

  async #load() {
    try {
      const { logdir, timelines, notes } = await this.source.list();
      if (!this.storageKey) {
        this.storageKey = `lightning-cam ${logdir}`;
        this.annotations.restore(this.storageKey);
        this.state = { ...restoreState(this.storageKey), ...this.address.read(), ...this.early };
      }
      const listing = () => JSON.stringify([this.notes, this.listed.map(({ id, empty }) => [id, empty])]);
      const before = listing();
      this.notes = notes;
      this.#list(timelines);
      const wanted = this.listed.filter(({ id }) => wantedRecords(this).includes(id));
      const changed = await Promise.all(wanted.map((entry) => this.#read(entry)));
      this.failure = null;
      if (!changed.some(Boolean) && listing() === before && this.drawn) return;
    } catch (error) {
      this.failure = `The records cannot be read: ${error instanceof Error ? error.message : error}`;
    }
    this.#settle();
    if (this.storageKey) this.address.write(this.state, false);
    this.redraw();
  }

  /**
   * Take over the source's list, and give the records names that tell them apart.
   * @param {Entry[]} entries
   */
  #list(entries) {
    this.listed = [...entries].sort((a, b) => compareNatural(a.run, b.run) || compareNatural(a.file, b.file));
    for (const entry of entries) {
      if (this.timelines.get(entry.id)?.uid !== entry.uid) this.timelines.set(entry.id, new Timeline(entry));
    }
    const all = this.listedTimelines;
    const runs = this.listed.map(({ run }) => run);
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (const run of runs) counts.set(run, (counts.get(run) ?? 0) + 1);
    const folder = commonFolder(runs);
    this.listed.forEach(({ run, file }, n) => {
      const ambiguous = (counts.get(run) ?? 0) > 1 || file !== "cam";
      const name = ambiguous ? `${run} · ${file}` : run;
      all[n].fullName = readable(name);
      all[n].label = readable(name.slice(folder.length));
    });
    const shortNames = shortenNames(all.map(({ label }) => label), RUN_WIDTH, textRuler(this.controls.element));
    for (const timeline of all) timeline.shortName = shortNames.get(timeline.label) ?? timeline.label;
    if (!this.timelines.has(this.state.timeline ?? "")) {
      const newest = [...entries].sort((a, b) => b.modified - a.modified)[0];
      this.state.timeline = newest?.id ?? null;
    }
  }

  /**
   * Read what was appended to a record; return whether there was anything new.
   * @param {Entry} entry
   */
  async #read({ id, bytes }) {
    const timeline = this.timelines.get(id);
    if (!timeline || timeline.error || bytes <= timeline.offset) return false;
    if (!(await readAppended(this.source, timeline, bytes))) return false;
    await decodePictures(timeline);
    return true;
  }

  /** Make the state fit the data: a method and a step that exist. */
  #settle() {
    const { state } = this;
    const timelines = shownTimelines(this);
    const methods = timelines[0]?.methods ?? [];
    if (methods.length && !methods.includes(state.method ?? "")) state.method = methods[0];
    const steps = slideSteps(state, timelines);
    if (steps.length && (state.step === null || state.follow)) state.step = steps[steps.length - 1];
    if (state.follow && this.player.playing) state.follow = false;
  }

  redraw() {
    this.pendingRedraw = null;
    const start = performance.now();
    this.drawn = true;
    const { state } = this;
    const arrangement = arrange(this);
    const { timelines } = arrangement;
    const [first] = timelines;
    const steps = slideSteps(state, timelines);
    if (state.fit && first) state.size = fittingSize({ ...this.room, count: arrangement.tiles.length, aspect: first.aspect, threeLines: Boolean(first.probe.planes), columns: arrangement.headings?.length ?? null });
    this.#showMessage();
    this.findings.show(timelines, state.step);
    this.controls.show();
    this.player.show(steps, first?.looks[first.lookAt(state.step ?? -Infinity)], this.#marks(first));
    this.planeSlider.show(timelines.find(({ probe }) => probe.planes));
    this.panel.setAttribute("aria-labelledby", `tab-${state.view}`);
    this.overview.show(first);
    this.depth.show(first);
    this.board.element.hidden = state.view === "overview" || state.view === "depth";
    if (!this.board.element.hidden) this.board.show(arrangement);
    this.enlarged.show(timelines, drawingStyle(state));
    this.charts.element.hidden = !state.charts || !steps.length;
    if (!this.charts.element.hidden && state.step !== null) {
      const methods = state.view === "methods" ? first.methods : [state.method ?? ""];
      this.charts.show(timelines, methods, steps, state.step, state.allCharts);
    }
    performance.clearMeasures("cam-redraw"); // the newest one is for whoever wants to know: benchmarks/review.py
    performance.measure("cam-redraw", { start });
  }

  /** @param {Timeline | undefined} timeline */
  #marks(timeline) {
    const { view, method, image } = this.state;
    return timeline ? marksOf(timeline, method, view === "film" || view === "depth" ? Math.min(image, timeline.count - 1) : null) : NO_MARKS;
  }

  #showMessage() {
    const texts = messagesOf(this);
    setText(this.message, texts.join("\n"));
    this.message.hidden = !texts.length;
  }
}

/**
 * @param {number[]} steps
 * @param {number} step
 */
function nearestIndex(steps, step) {
  const after = Math.min(countUntil(steps, step), steps.length - 1);
  const before = Math.max(0, after - 1);
  return step - steps[before] <= steps[after] - step ? before : Math.max(0, after);
}
