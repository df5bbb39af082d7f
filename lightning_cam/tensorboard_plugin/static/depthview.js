// The view of one image by depth: a row for each block of the model, a column for each look that this was kept of.

import { blockLines, blockNames, depthContent } from "./depth.js";
import { html, setText } from "./dom.js";
import { Matrix, matrixLayout } from "./matrix.js";
import { epochsRepeat, headingOf } from "./story.js";
import { formatEpoch, formatNumber, readable } from "./text.js";
import { GAP } from "./tilesize.js";
import { drawTile, drawingStyle } from "./tiles.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */
/** @typedef {import("./views.js").Tile} Tile */

const WORDS =
  "A row is a block, the first on top. It shows what the block reads at each place: relevance that is there before the block and no longer behind it, as it went to the class token or to other places. The last row is what is left behind all blocks, for the head to read; in a model without a class token that is most of it.";
const [LEAST, MOST] = [72, 160]; // CSS pixels of a cell: as large as lets all rows be in sight, but to be read
const SMALLEST = 44; // CSS pixels of one on a narrow page: there are rather fewer looks
const [LETTERS, FEW_LETTERS] = [19, 10]; // of a block's name, and where the page is narrow
const NARROW = 100; // CSS pixels of names there
const HEADS = 110; // CSS pixels that the words and the headings take
/** The state that the cells depend on. @type {(keyof State)[]} */
const STYLE = ["opacity", "threshold", "sequential", "diverging", "signed", "squareRoot", "smooth", "outlines"];

export class DepthView {
  /** @param {import("./main.js").App} app */
  constructor(app) {
    this.app = app;
    this.title = html("h2");
    this.words = html("p", { class: "lead" }, WORDS);
    this.matrix = new Matrix();
    this.note = html("p", { class: "note" });
    this.element = html("article", { class: "depth", hidden: true }, this.title, this.words, this.matrix.element, this.note);
    new ResizeObserver(() => !this.element.hidden && this.#draw()).observe(this.element);
  }

  /** @param {Timeline | undefined} timeline */
  show(timeline) {
    this.timeline = timeline;
    this.element.hidden = this.app.state.view !== "depth" || !timeline || !depthContent(this.app.state, timeline);
    if (!this.element.hidden) this.#draw();
  }

  #draw() {
    const { timeline, app } = this;
    const { state, room } = app;
    const width = this.element.clientWidth;
    const whole = timeline && depthContent(state, timeline);
    if (!timeline || !whole || !timeline.images.length || !width) return; // not decoded yet, not on the page yet
    const high = Math.floor((room.height - HEADS) / whole.names.length - GAP) * timeline.aspect;
    const side = state.fit ? Math.max(LEAST, Math.min(MOST, high)) : state.size;
    let layout = matrixLayout(width, whole.looks.length, whole.names.length, side);
    for (let count = whole.looks.length - 1; layout.side < SMALLEST && count > 1; count--) layout = matrixLayout(width, count, whole.names.length, side);
    const content = depthContent(state, timeline, layout.columns) ?? whole;
    const { looks, tiles, names, method, imageIndex } = content;
    const style = drawingStyle(state);
    const tileAt = (/** @type {number} */ row, /** @type {number} */ column) => tiles[row * looks.length + column];
    const small = html("canvas");
    const short = blockNames(names, layout.names < NARROW ? FEW_LETTERS : LETTERS);
    setText(this.title, `What each block reads of image ${imageIndex + 1}, ${timeline.nameOf(imageIndex)}, over ${epochsRepeat(timeline) ? "steps" : "epochs"}`);
    setText(this.note, `By ${readable(method)}, kept of the looks 1, 2, 4, 8 and so on, and of the last one${looks.length < whole.looks.length ? `: ${looks.length} of ${whole.looks.length}, evenly spread` : ""}.`);
    this.matrix.show(
      {
        key: JSON.stringify([timeline.id, timeline.uid, timeline.revision, method, imageIndex, looks, STYLE.map((key) => state[key])]),
        label: "Blocks by steps. Arrow keys move, Enter opens what the block reads at the step.",
        rows: names.map((title, n) => ({ name: short[n], title })),
        headings: looks.map((t) => headingOf(timeline, t)),
        aspect: timeline.aspect,
        current: looks.findIndex((_, n) => tileAt(0, n).current),
        draw: (context, row, column, { x, y, width, height }) => {
          small.width = width;
          small.height = height;
          drawTile(small, state, [timeline], tileAt(row, column), style);
          context.drawImage(small, x, y);
        },
        tell: (row, column) => tellTile(tileAt(row, column)),
        open: (row, column) => app.enlarged.open(tileAt(row, column)),
      },
      layout,
    );
  }
}


/**
 * What stands in a cell, in words.
 * @param {Tile} tile
 */
function tellTile(tile) {
  const { step, epoch } = tile.timeline.looks[tile.lookIndex];
  return [...blockLines(tile), `step ${formatNumber(step)} · ${formatEpoch(epoch)}`].filter(Boolean).join(" · ");
}
