// The first view: what a run came to, what was found, and when each image was understood.

import { overlayTable } from "./colors.js";
import { html, setText } from "./dom.js";
import { drawMap, drawMissing } from "./draw.js";
import { chosenImages } from "./filters.js";
import { findingItem, newestFound } from "./findings.js";
import { Matrix, matrixLayout } from "./matrix.js";
import { coverOf } from "./pictures.js";
import { chosenWords, coverPlane, planeWords } from "./planes.js";
import { activeColormap, tileMap } from "./scale.js";
import { accuracies, changes, columnsOf, flips, formatDuration, headingOf, lookOfColumn, standingOut, verdicts } from "./story.js";
import { formatEpoch, formatNumber, formatPercent, readable } from "./text.js";
import { drawPicture } from "./tiles.js";

/** @typedef {import("./main.js").App} App */
/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */

const MOST_CLASSES = 24; // rows of mean maps
const FRAME = 3; // CSS pixels around a cell that turned
const BAR = 3; // CSS pixels of the bar that says right or wrong
/** The state that a map drawn small depends on. @type {(keyof State)[]} */
const STYLE = ["opacity", "threshold", "sequential", "diverging", "signed", "squareRoot", "smooth", "scale"];

export class Overview {
  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.title = html("h2");
    this.lead = html("p", { class: "lead" });
    this.cards = html("div", { class: "cards" });
    this.found = html("ul", { class: "found" });
    this.foundTitle = html("h3", {}, "What was found");
    this.matrix = new Matrix();
    this.matrixTitle = html("h3");
    this.means = new Matrix();
    this.meansTitle = html("h3");
    this.meansSection = html("section", {}, this.meansTitle, this.means.element);
    this.foundSection = html("section", {}, this.foundTitle, this.found);
    this.element = html(
      "article",
      { class: "overview", hidden: true },
      html("section", {}, this.title, this.lead, this.cards),
      this.foundSection,
      html("section", {}, this.matrixTitle, this.matrix.element),
      this.meansSection,
    );
    this.shown = "";
    new ResizeObserver(() => !this.element.hidden && this.#showMatrices()).observe(this.element);
  }

  /** @param {Timeline | undefined} timeline */
  show(timeline) {
    this.element.hidden = this.app.state.view !== "overview" || !timeline;
    this.timeline = timeline;
    if (this.element.hidden || !timeline) return;
    const key = JSON.stringify([timeline.id, timeline.uid, timeline.revision, timeline.label]);
    if (key !== this.shown) {
      this.shown = key;
      this.#showStory(timeline);
    }
    this.#showMatrices();
  }

  /** @param {Timeline} timeline */
  #showStory(timeline) {
    const { looks } = timeline;
    const [first, last] = [looks[0], looks[looks.length - 1]];
    setText(this.title, timeline.fullName);
    const length = formatDuration(last.time - first.time);
    const way = looks.length > 1 ? `, from step ${formatNumber(first.step)} (${formatEpoch(first.epoch)}) to step ${formatNumber(last.step)} (${formatEpoch(last.epoch)}), over ${length}` : ` at step ${formatNumber(first.step)}`;
    setText(this.lead, `${looks.length === 1 ? "1 look" : `${formatNumber(looks.length)} looks`} at ${timeline.count} images${way}.`);
    this.cards.replaceChildren(...changes(timeline).map(card));
    const found = newestFound(timeline, Infinity);
    const items = (found?.findings ?? []).map((finding) => findingItem(this.app, timeline, finding, found?.imageMaps));
    this.found.replaceChildren(...items);
    this.foundSection.hidden = !items.length;
  }

  #showMatrices() {
    if (!this.timeline?.images.length || !this.element.clientWidth) return; // not decoded yet, not on the page yet
    this.#showImages(this.timeline);
    this.#showClasses(this.timeline);
  }

  /** @param {Timeline} timeline */
  #showImages(timeline) {
    const { app } = this;
    const { state } = app;
    const images = chosenImages(state, timeline);
    const layout = matrixLayout(this.element.clientWidth, timeline.looks.length, images.length);
    const columns = columnsOf(timeline.looks.length, layout.columns);
    const turned = flips(timeline);
    const right = verdicts(timeline);
    const colors = verdictColors(this.element);
    const lookOf = (/** @type {number} */ row, /** @type {number} */ column) =>
      lookOfColumn(columns[column], (t) => turned[t].has(images[row]));
    const colormap = activeColormap(state);
    const style = { colormap, table: overlayTable(colormap, state), smooth: state.smooth };
    const now = timeline.lookAt(state.step ?? -Infinity);
    const count = turned.reduce((sum, { size }) => sum + size, 0);
    const known = accuracies(timeline).some(Number.isFinite);
    const { planes } = timeline.probe;
    const which = planes && state.plane === null ? `, ${planes.kind} with most evidence at the newest look` : planes ? `, ${chosenWords(state, planes)}` : "";
    setText(this.matrixTitle, `Images over epochs, ${readable(state.method ?? "")}${which}${known ? `: ${count === 1 ? "1 flip" : `${formatNumber(count)} flips`} between right and wrong, framed` : ""}`);
    /** @type {Map<number, HTMLCanvasElement>} each image at the size of a cell */
    const small = new Map();
    const tileOf = (/** @type {number} */ row, /** @type {number} */ column) => {
      const planes = timeline.probe.planes && [coverPlane(timeline, images[row], state.method)];
      return /** @type {import("./views.js").Tile} */ ({ timeline, lookIndex: lookOf(row, column), imageIndex: images[row], method: state.method, referenceIndex: null, planes });
    };
    this.matrix.show(
      {
        key: JSON.stringify([timeline.id, timeline.uid, timeline.revision, state.method, state.plane, images, columns.length, STYLE.map((key) => state[key]), Object.values(colors)]),
        label: "Images by epochs. Arrow keys move, Enter opens the image at the step.",
        rows: images.map((i) => ({ name: timeline.nameOf(i), picture: coverOf(timeline, i, state.method) })),
        headings: columns.map(([from, to]) => headingOf(timeline, from === 0 ? 0 : to)),
        aspect: timeline.aspect,
        current: columns.findIndex(([from, to]) => from <= now && now <= to),
        draw: (context, row, column, box) => {
          const imageIndex = images[row];
          const lookIndex = lookOf(row, column);
          const tile = tileOf(row, column);
          if (!small.has(imageIndex)) small.set(imageIndex, shrunk(state, tile, box));
          context.drawImage(/** @type {HTMLCanvasElement} */ (small.get(imageIndex)), box.x, box.y);
          const map = tileMap(state, [timeline], tile);
          if ("missing" in map) drawMissing(context.canvas, "", "", box);
          else drawMap(context.canvas, map, style, box);
          const verdict = right[lookIndex][imageIndex];
          if (verdict === null) return;
          const ratio = box.width / layout.side;
          context.fillStyle = context.strokeStyle = verdict ? colors.right : colors.wrong;
          context.fillRect(box.x, box.y + box.height - BAR * ratio, box.width, BAR * ratio);
          if (!turned[lookIndex].has(imageIndex)) return;
          context.lineWidth = FRAME * ratio;
          const inset = (FRAME * ratio) / 2;
          context.strokeRect(box.x + inset, box.y + inset, box.width - 2 * inset, box.height - 2 * inset);
        },
        tell: (row, column) => [tellCell(timeline, lookOf(row, column), images[row], turned), planeWords(state, tileOf(row, column))].filter(Boolean).join(" · "),
        open: (row, column) =>
          app.enlarged.open({ timeline, lookIndex: lookOf(row, column), imageIndex: images[row], method: state.method, referenceIndex: null, caption: "class" }),
      },
      layout,
    );
  }

  /** @param {Timeline} timeline */
  #showClasses(timeline) {
    const { app } = this;
    const { state } = app;
    const looks = timeline.looks.flatMap(({ means }, t) => (means?.keys.length ? [t] : []));
    this.meansSection.hidden = !looks.length;
    if (!looks.length) return;
    const newest = /** @type {import("./foundmaps.js").FoundMaps} */ (timeline.looks[looks[looks.length - 1]].means);
    const classes = timeline.cached("standing out", () => standingOut(newest, MOST_CLASSES));
    const layout = matrixLayout(this.element.clientWidth, looks.length, classes.length);
    const columns = columnsOf(looks.length, layout.columns);
    const lookOf = (/** @type {number} */ column) => looks[lookOfColumn(columns[column], () => false)];
    const meanOf = (/** @type {number} */ row, /** @type {number} */ column) => timeline.looks[lookOf(column)].means?.get(classes[row]);
    const peaks = timeline.cached("mean peaks", () =>
      classes.map((label) => looks.reduce((peak, t) => Math.max(peak, timeline.looks[t].means?.peak(label) ?? 0), 0)),
    );
    const colormap = state.sequential;
    const style = { colormap, table: overlayTable(colormap, { opacity: 1, threshold: 0, squareRoot: state.squareRoot }), smooth: state.smooth };
    const now = timeline.lookAt(state.step ?? -Infinity);
    const many = newest.keys.length > classes.length ? `, the ${classes.length} of ${newest.keys.length} that stand out most` : "";
    setText(this.meansTitle, `Mean map of each class over epochs, from more validation images${many}`);
    this.means.show(
      {
        key: JSON.stringify([timeline.id, timeline.uid, timeline.revision, colormap, state.squareRoot, state.smooth, columns.length]),
        label: "Mean maps of classes by epochs. Arrow keys move, Enter shows the images of the class at the step.",
        rows: classes.map((label) => ({ name: timeline.className(label) })),
        headings: columns.map((_, n) => headingOf(timeline, lookOf(n))),
        aspect: 1,
        current: columns.findIndex(([from, to]) => looks[from] <= now && (now <= looks[to] || to === looks.length - 1)),
        draw: (context, row, column, box) => {
          context.fillStyle = "#000";
          context.fillRect(box.x, box.y, box.width, box.height);
          const mean = meanOf(row, column);
          if (!mean || !peaks[row]) return drawMissing(context.canvas, "", "", box);
          drawMap(context.canvas, { values: mean.map((value) => value / peaks[row]), rows: newest.side, columns: newest.side }, style, box);
        },
        tell: (row, column) => `${timeline.className(classes[row])} · ${placeOf(timeline, lookOf(column))}${meanOf(row, column) ? "" : " · no evidence"}`,
        open: (row, column) =>
          app.change({ view: "grid", step: timeline.looks[lookOf(column)].step, follow: false, label: classes[row], predicted: null, show: "all" }),
      },
      layout,
    );
  }
}

/** @param {import("./story.js").Change} change */
function card({ title, first, last, share }) {
  const text = (/** @type {number} */ value) => (share ? formatPercent(value) : formatNumber(value));
  return html("div", { class: "card" }, html("div", { class: "change" }, `${text(first)} → ${text(last)}`), html("div", { class: "hint" }, readable(title)));
}

/**
 * @param {Timeline} timeline
 * @param {number} lookIndex
 */
function placeOf(timeline, lookIndex) {
  const { step, epoch } = timeline.looks[lookIndex];
  return `step ${formatNumber(step)} · ${formatEpoch(epoch)}`;
}

/**
 * What stands in a cell, in words.
 * @param {Timeline} timeline
 * @param {number} lookIndex
 * @param {number} imageIndex
 * @param {Set<number>[]} turned
 */
function tellCell(timeline, lookIndex, imageIndex, turned) {
  const { predicted, probability, correct } = timeline.prediction(lookIndex, imageIndex);
  const parts = [`image ${imageIndex + 1}: ${timeline.nameOf(imageIndex)}`, placeOf(timeline, lookIndex)];
  if (predicted !== null && probability !== null) parts.push(`predicted ${timeline.className(predicted)} · ${formatPercent(probability)}`);
  if (correct !== null) parts.push(`${turned[lookIndex].has(imageIndex) ? "became " : ""}${correct ? "right" : "wrong"}`);
  return parts.join(" · ");
}

/**
 * @param {State} state
 * @param {import("./views.js").Tile} tile
 * @param {import("./matrix.js").Box} box
 */
function shrunk(state, tile, { width, height }) {
  const canvas = html("canvas", { width, height });
  drawPicture(canvas, state, tile);
  return canvas;
}

/** @param {Element} element */
function verdictColors(element) {
  const style = getComputedStyle(element);
  return { right: style.getPropertyValue("--right"), wrong: style.getPropertyValue("--wrong") };
}
