// Takes what is shown along: as a picture, as an animation over the steps, as tables of the numbers.

import { thinned } from "./columns.js";
import { captionOf, composePicture } from "./compose.js";
import { html, setText } from "./dom.js";
import { planesOverLooks } from "./planes.js";
import { tableOfMetrics, tableOfTiles } from "./table.js";
import { GAP } from "./tilesize.js";
import { allSteps, arrange, shownTimelines } from "./views.js";
import { animatedWebp } from "./webp.js";

/** @typedef {import("./main.js").App} App */
/** @typedef {import("./state.js").State} State */

const MOST_FRAMES = 100;
const FRAME_SIDE = 160; // pixels of a tile in an animation, at most
const QUALITY = 0.9; // of the frames
const FORGET_AFTER = 60_000; // milliseconds after which a file's address is given back

export class Saver {
  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.told = html("p", { class: "hint", role: "status" });
    const entry = (/** @type {string} */ text, /** @type {() => unknown} */ save) => html("button", { type: "button", onclick: () => this.#run(save) }, text);
    this.element = html(
      "details",
      { class: "save" },
      html("summary", {}, "save"),
      html(
        "div",
        { class: "save-menu" },
        entry("picture (PNG)", () => this.#picture()),
        entry("animation over the steps (WebP)", () => this.#animation()),
        entry("numbers of the tiles (CSV)", () => this.#tiles()),
        entry("metrics (CSV)", () => this.#metrics()),
        app.source.page ? entry("report with pins and notes (HTML)", () => this.#report()) : null,
        this.told,
      ),
    );
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && (this.element.open = false));
  }

  /** @param {() => unknown} save */
  async #run(save) {
    try {
      setText(this.told, "");
      if (!shownTimelines(this.app).length) throw new Error("There is nothing to save yet.");
      await save();
    } catch (error) {
      setText(this.told, `Not saved: ${error instanceof Error ? error.message : error}`);
    }
  }

  /** What a picture shows: the overview has no tiles of its own, its images are shown at the step. */
  #state() {
    const { state } = this.app;
    return state.view === "overview" ? { ...state, view: /** @type {const} */ ("grid") } : state;
  }

  /** @param {State} state */
  #arrangement(state) {
    const { listed, timelines } = this.app;
    return arrange({ state, listed, timelines });
  }

  /**
   * @param {State} state
   * @param {import("./views.js").Arrangement} arrangement
   */
  #columns({ size }, { headings, tiles }) {
    const fitting = Math.floor((this.app.room.width + GAP) / (size + GAP));
    return headings?.length ?? Math.max(1, Math.min(tiles.length, fitting));
  }

  async #picture() {
    const state = this.#state();
    const arrangement = this.#arrangement(state);
    const ratio = Math.max(1, globalThis.devicePixelRatio || 1);
    const caption = captionOf(state, arrangement.timelines);
    const canvas = composePicture(state, arrangement, this.#columns(state, arrangement), state.size * ratio, caption);
    this.#offer(await blobOf(canvas, "image/png"), "png");
  }

  async #animation() {
    const { app } = this;
    const state = this.#state();
    const timelines = shownTimelines(app);
    const steps = allSteps(timelines);
    const shown = thinned(steps.length, 0, MOST_FRAMES);
    const film = state.view === "film" || state.view === "depth"; // of one image, at all steps
    const caption = captionOf(state, timelines, true);
    /** @type {ArrayBuffer[]} */
    const frames = [];
    let size = [0, 0];
    for (const n of shown) {
      const step = steps[n];
      const at = { ...state, step, view: film ? /** @type {const} */ ("grid") : state.view, sortStep: state.sortStep ?? state.step, show: /** @type {const} */ ("all"), predicted: null };
      const arrangement = this.#arrangement(at);
      if (film) arrangement.tiles = arrangement.tiles.flatMap((tile) => (tile?.imageIndex === state.image ? [{ ...tile, planes: planesOverLooks(tile.timeline, state.image, tile.method) }] : []));
      const side = film ? 2 * FRAME_SIDE : Math.min(state.size, FRAME_SIDE);
      const canvas = composePicture(at, arrangement, this.#columns({ ...at, size: side }, arrangement), side, `step ${step} · ${caption}`);
      size = [canvas.width, canvas.height];
      frames.push(await (await blobOf(canvas, "image/webp")).arrayBuffer());
      setText(this.told, `frame ${frames.length} of ${shown.length}`);
    }
    const bytes = animatedWebp(frames, size[0], size[1], 1000 / state.speed);
    this.#offer(new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (bytes)], { type: "image/webp" }), "webp");
  }

  #tiles() {
    const state = this.#state();
    const { tiles, timelines } = this.#arrangement(state);
    this.#offer(textBlob(tableOfTiles(state, tiles, captionOf(state, timelines), this.app.annotations)), "csv");
  }

  #metrics() {
    const { state } = this.app;
    const timelines = shownTimelines(this.app);
    const methods = state.view === "methods" ? timelines[0].methods : [state.method ?? ""];
    this.#offer(textBlob(tableOfMetrics(timelines, methods, allSteps(timelines), captionOf(state, timelines, true))), "metrics.csv");
  }

  #report() {
    const { source, annotations } = this.app;
    this.#offer(new Blob([annotations.inReport(source.page ?? "")], { type: "text/html" }), "html");
  }

  /**
   * @param {Blob} blob
   * @param {string} suffix
   */
  #offer(blob, suffix) {
    const [{ label }] = shownTimelines(this.app);
    const { view, step } = this.app.state;
    const name = `${label}_${view}_${step}`.replace(/[^\w.-]+/g, "_").slice(-100);
    const href = URL.createObjectURL(blob);
    html("a", { href, download: `${name}.${suffix}` }).click();
    setTimeout(() => URL.revokeObjectURL(href), FORGET_AFTER);
    setText(this.told, `saved ${name}.${suffix}`);
  }
}

/** @param {string} text */
const textBlob = (text) => new Blob(["\ufeff", text], { type: "text/csv" }); // the mark tells spreadsheets that it is UTF-8

/**
 * @param {HTMLCanvasElement} canvas
 * @param {string} type
 * @returns {Promise<Blob>}
 */
function blobOf(canvas, type) {
  return new Promise((done, fail) => canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error("The picture is too large."))), type, QUALITY));
}
