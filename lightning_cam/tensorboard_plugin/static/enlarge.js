// One tile, large: the image beside its map, what the model said, and how that came about.

import { looksWithBlocks, nearestBefore } from "./blockmaps.js";
import { SERIES_COLORS } from "./colors.js";
import { blockLines } from "./depth.js";
import { html, setText, svg } from "./dom.js";
import { chosenImages } from "./filters.js";
import { NoteFields } from "./notes.js";
import { planeWords, rankWords, shownPlanes } from "./planes.js";
import { PlaneSlider } from "./planeslider.js";
import { mapsOf } from "./scale.js";
import { thinnedPoints } from "./series.js";
import { Strip, blockEntries, lookEntries, methodEntries } from "./strip.js";
import { formatEpoch, formatNumber, formatPercent, readable } from "./text.js";
import { cellText, drawPicture, drawTile, showTip } from "./tiles.js";
import { Zoom } from "./zoom.js";

/** @typedef {import("./scale.js").ScaledMap} ScaledMap */
/** @typedef {import("./scale.js").MissingMap} MissingMap */
/** @typedef {import("./timeline.js").Timeline} Timeline */
/** @typedef {import("./views.js").Tile} Tile */

const CANVAS_SIDE = 896; // twice the CSS pixels that it has at most, for screens with small pixels; more if more is stored
const HISTORY_WIDTH = 260;
const HISTORY_HEIGHT = 70;
const HISTORY_MARGIN = 4; // above and below the line

export class EnlargedTile {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {Tile | null} null while the dialog is closed */
    this.tile = null;
    /** @type {ScaledMap | MissingMap | null} */
    this.map = null;
    /** @type {HTMLCanvasElement} */
    this.mapCanvas = html("canvas", {
      tabindex: 0,
      role: "application",
      "aria-roledescription": "map",
      "aria-label": "the map over the image. Arrow keys move between its cells and read out their values.",
      onkeydown: (event) => this.#onKey(event),
      onpointermove: (event) => showTip(this.tip, app.state, this.mapCanvas, this.tile, this.map, event),
      onpointerleave: () => (this.tip.hidden = true),
    });
    this.imageCanvas = html("canvas", { role: "img", "aria-label": "the image" });
    this.cell = { row: 0, column: 0 };
    this.cellFrame = html("div", { class: "cell-frame", hidden: true });
    this.mapCanvas.addEventListener("blur", () => this.#showCell(false));
    this.cellValue = html("p", { class: "hint", role: "status" });
    this.title = html("h2", { id: "enlarged-title" });
    this.place = html("p", { class: "hint" });
    this.topClasses = html("div");
    this.history = html("div", { class: "history" });
    this.facts = html("p", { class: "hint" });
    this.tip = html("div", { class: "tip", hidden: true });
    this.noteFields = new NoteFields(app.annotations);
    /** @type {ReturnType<typeof methodEntries>} */
    this.byMethod = [];
    this.methods = new Strip("by all methods", (n) => this.#choose({ method: this.byMethod[n].tile.method }));
    this.blocks = new Strip("by all blocks", (n) => this.#choose({ block: n ? n - 1 : undefined }));
    this.byDepth = html("button", { type: "button", class: "small", onclick: () => this.#showDepth() }, "all blocks at all steps");
    this.blocksPart = html("div", { class: "by-block" }, this.blocks.element, this.byDepth);
    /** @type {ReturnType<typeof lookEntries>} */
    this.looks = [];
    this.film = new Strip("at other looks", (n) => app.change({ step: this.looks[n].step, follow: false }));
    const panes = [this.imageCanvas, html("div", {}, this.mapCanvas, this.cellFrame)].map((inner) => html("div", { class: "map" }, inner));
    this.zoom = new Zoom(panes);
    this.planeSlider = new PlaneSlider(app);
    const turn = (/** @type {string} */ text, /** @type {string} */ name, /** @type {number} */ by) =>
      html("button", { type: "button", title: name, "aria-label": name, onclick: () => this.#turn(by) }, text);
    /** @type {HTMLDialogElement} */
    this.element = html(
      "dialog",
      { class: "enlarged", tabindex: -1, onkeydown: (event) => this.#onDialogKey(event), "aria-labelledby": "enlarged-title", onclick: (event) => event.target === this.element && this.element.close() }, // beside it
      html("header", {}, this.title, turn("‹", "previous image (←)", -1), turn("›", "next image (→)", 1), this.zoom.element, html("button", { title: "close (Escape)", "aria-label": "close", onclick: () => this.element.close() }, "✕")),
      this.place,
      html("div", { class: "pair" }, ...panes),
      this.planeSlider.element,
      this.cellValue,
      this.noteFields.element,
      this.methods.element,
      this.blocksPart,
      this.film.element,
      html("div", { class: "details" }, this.topClasses, this.history),
      this.facts,
      this.tip,
    );
    this.element.addEventListener("close", () => (this.tile = null));
  }

  /**
   * Open for a tile; it then goes with the slider.
   * @param {Tile} tile
   */
  open(tile) {
    const { timeline, lookIndex } = tile;
    const { state } = this.app;
    this.tile = { ...tile, method: tile.method ?? state.method };
    this.zoom.reset();
    this.element.showModal();
    this.element.focus(); // or Space would press the first button
    const newest = lookIndex === timeline.looks.length - 1;
    this.app.change({ step: timeline.looks[lookIndex].step, follow: state.follow && newest });
  }

  /**
   * Show the tile at the current step, if one is open.
   * @param {Timeline[]} timelines those shown together
   * @param {import("./draw.js").DrawingStyle} style
   */
  show(timelines, style) {
    if (!this.tile) return;
    const { state } = this.app;
    const { timeline, imageIndex, method, block } = this.tile;
    const now = timeline.lookAt(state.step ?? -Infinity);
    const lookIndex = block === undefined ? now : nearestBefore(looksWithBlocks(timeline, method), now);
    this.tile.lookIndex = lookIndex;
    const look = timeline.looks[lookIndex];
    const { width: stored = 0, height: storedHeight = 0 } = timeline.images[imageIndex] ?? {};
    const width = Math.max(CANVAS_SIDE, stored, storedHeight) * Math.min(1, timeline.aspect);
    for (const canvas of [this.imageCanvas, this.mapCanvas]) {
      canvas.width = width;
      canvas.height = width / timeline.aspect;
    }
    drawPicture(this.imageCanvas, state, this.tile);
    this.map = drawTile(this.mapCanvas, state, timelines, this.tile, style);
    const { label, top } = timeline.prediction(lookIndex, imageIndex);
    setText(this.title, timeline.nameOf(imageIndex));
    const blockName = block === undefined ? "" : ` · ${readable(look.blocks?.names[block] ?? "")}`;
    const planes = planeWords(state, this.tile);
    this.planeSlider.show(timeline);
    setText(this.place, `${timeline.label} · ${readable(method ?? "")}${blockName}${planes && ` · ${planes}`} · step ${formatNumber(look.step)} · ${formatEpoch(look.epoch)}`);
    const rows = top.map(({ classIdx, probability }) => topClassRow(timeline.className(classIdx), probability, classIdx === label));
    this.topClasses.replaceChildren(...rows);
    this.history.replaceChildren(...labelHistory(timeline, imageIndex, lookIndex));
    this.noteFields.show(timeline.probe.hashes[imageIndex]);
    setText(this.facts, factsOf(this.tile).join(" · "));
    const same = { ...this.tile, planes: timeline.probe.planes && shownPlanes(state, this.tile) }; // beside it, to compare
    this.byMethod = methodEntries(same);
    this.methods.element.hidden = this.byMethod.length < 2;
    if (!this.methods.element.hidden) this.methods.show(state, timelines, this.byMethod, style);
    const blocks = blockEntries(this.tile);
    this.blocksPart.hidden = !blocks.length;
    if (blocks.length) this.blocks.show(state, timelines, blocks, style);
    this.looks = lookEntries(same);
    this.film.element.hidden = this.looks.length < 2;
    if (!this.film.element.hidden) this.film.show(state, timelines, this.looks, style);
    this.#showCell(!this.cellFrame.hidden);
  }

  /** @param {Partial<Tile>} patch */
  #choose(patch) {
    if (!this.tile) return;
    Object.assign(this.tile, patch);
    this.app.change({});
  }

  #showDepth() {
    if (!this.tile) return;
    const { imageIndex, method } = this.tile;
    this.element.close();
    this.app.change({ view: "depth", image: imageIndex, method });
  }

  /**
   * Go on among the images that pass the filters, in their order.
   * @param {number} by
   */
  #turn(by) {
    if (!this.tile) return;
    const images = chosenImages(this.app.state, this.tile.timeline);
    const at = images.indexOf(this.tile.imageIndex);
    const next = images[at < 0 ? 0 : Math.max(0, Math.min(images.length - 1, at + by))];
    if (next !== undefined) this.#choose({ imageIndex: next });
  }

  /** @param {KeyboardEvent} event */
  #onDialogKey(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLInputElement && event.key.startsWith("Arrow")) return; // the slider's own
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowLeft: () => this.#turn(-1),
      ArrowRight: () => this.#turn(1),
      ArrowUp: () => this.app.player.move(-1),
      ArrowDown: () => this.app.player.move(1),
      ",": () => this.planeSlider.move(-1),
      ".": () => this.planeSlider.move(1),
      m: () => this.planeSlider.clear(),
      "+": () => this.zoom.by(1.5),
      "-": () => this.zoom.by(1 / 1.5),
      0: () => this.zoom.reset(),
    };
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault(); // the slider's arrows are the images' here
    actions[event.key]();
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const moves = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] });
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    event.preventDefault(); // the slider stays where it is
    if (!this.map || "missing" in this.map) return;
    const { row, column } = this.cell;
    const [down, right] = this.cellFrame.hidden ? [0, 0] : moves[event.key];
    this.cell = {
      row: Math.max(0, Math.min(this.map.rows - 1, row + down)),
      column: Math.max(0, Math.min(this.map.columns - 1, column + right)),
    };
    this.#showCell(true);
  }

  /**
   * Frame the cell that the keys have gone to, and say its value.
   * @param {boolean} shown
   */
  #showCell(shown) {
    const { map, tile } = this;
    const there = shown && tile && map && !("missing" in map) ? map : null;
    this.cellFrame.hidden = !there;
    if (!there || !tile) return setText(this.cellValue, "");
    const row = Math.min(this.cell.row, there.rows - 1);
    const column = Math.min(this.cell.column, there.columns - 1);
    const percent = (/** @type {number} */ share) => `${100 * share}%`;
    Object.assign(this.cellFrame.style, {
      left: percent(column / there.columns),
      top: percent(row / there.rows),
      width: percent(1 / there.columns),
      height: percent(1 / there.rows),
    });
    setText(this.cellValue, cellText(this.app.state, tile, there, row, column).replace("\n", " · "));
  }
}

/**
 * What there is to say of a tile's map.
 * @param {Tile} tile
 */
function factsOf(tile) {
  const { timeline, lookIndex, imageIndex, method } = tile;
  const value = timeline.valueOf(lookIndex, imageIndex);
  const facts = value ? [`value: ${value}`] : [];
  const explained = timeline.explainedClass(lookIndex, imageIndex);
  if (explained !== null) facts.push(`explains: ${timeline.className(explained)}`);
  const ranked = rankWords(tile);
  if (ranked) facts.push(ranked);
  if (tile.block !== undefined) facts.push(blockLines(tile)[1]);
  const maps = mapsOf(tile);
  if (!maps?.isColor) facts.push(`largest value ${maps ? formatNumber(maps.scales[2 * imageIndex]) : "–"}`);
  facts.push(`drift ${formatNumber(method === null ? 0 : timeline.drift(method)[imageIndex])}`);
  return facts;
}

/**
 * One of the most probable classes, with a bar.
 * @param {string} name
 * @param {number} probability
 * @param {boolean} correct
 */
function topClassRow(name, probability, correct) {
  const bar = html("div", { class: "fill", style: `width: ${100 * probability}%` });
  return html(
    "div",
    { class: `top ${correct ? "right" : ""}` },
    html("span", { class: "name" }, name),
    html("div", { class: "track" }, bar),
    html("span", {}, formatPercent(probability)),
  );
}

/**
 * The label's probability over the looks, with a cursor; nothing where it is not known.
 * @param {Timeline} timeline
 * @param {number} imageIndex
 * @param {number} lookIndex where the cursor is
 * @returns {Element[]}
 */
function labelHistory(timeline, imageIndex, lookIndex) {
  if (timeline.probe.labels[imageIndex] < 0 || !timeline.looks.some(({ topK }) => topK)) return [];
  const [width, height] = [HISTORY_WIDTH, HISTORY_HEIGHT];
  const total = timeline.looks.length;
  const across = (/** @type {number} */ t) => (total > 1 ? (t / (total - 1)) * width : width / 2);
  const down = (/** @type {number} */ probability) => height - HISTORY_MARGIN - (height - 2 * HISTORY_MARGIN) * probability;
  /** @type {import("./series.js").Point[]} */
  const probabilities = timeline.looks.map(({ labelProbabilities }, t) => [t, labelProbabilities[imageIndex] ?? 0]);
  const seen = thinnedPoints(probabilities, 2 * width);
  const points = seen.map(([t, probability]) => `${across(t).toFixed(1)},${down(probability).toFixed(1)}`);
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" },
    svg("polyline", { class: "line", points: points.join(" "), stroke: SERIES_COLORS[0] }),
    svg("line", { class: "now", x1: across(lookIndex), x2: across(lookIndex), y1: 0, y2: height }),
  );
  return [html("div", { class: "hint" }, "label probability at all looks"), picture];
}
