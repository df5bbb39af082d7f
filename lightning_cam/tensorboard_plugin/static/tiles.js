// The tiles on the page: kept and redrawn rather than made anew, and drawn only while they can be seen.

import { writeCaption } from "./caption.js";
import { overlayTable } from "./colors.js";
import { context2d, html, setText, textRuler } from "./dom.js";
import { boxesOf, drawImage, drawLine, drawMap, drawMissing, drawOutline } from "./draw.js";
import { nameShortener } from "./names.js";
import { outlineIn } from "./pictures.js";
import { planeText, planeWords, shownPlanes, sideOf } from "./planes.js";
import { rove } from "./roving.js";
import { activeColormap, describeValue, placeInPlane, strengthOf, tileMap } from "./scale.js";
import { formatNumber } from "./text.js";

/** @typedef {import("./draw.js").DrawingStyle} DrawingStyle */
/** @typedef {import("./scale.js").ScaledMap} ScaledMap */
/** @typedef {import("./scale.js").MissingMap} MissingMap */
/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */
/** @typedef {import("./views.js").Tile} Tile */

/**
 * A place on the board: its elements, and the tile that it shows now.
 * @typedef {object} Slot
 * @property {HTMLElement} figure
 * @property {HTMLCanvasElement} canvas
 * @property {HTMLElement} strength the bar at the right, see strengthOf
 * @property {HTMLElement} pin says that the image is pinned or has a note
 * @property {HTMLElement} bar the one below the image, as long as the predicted class is probable
 * @property {HTMLElement} first the caption's first line
 * @property {HTMLElement} second
 * @property {HTMLElement} third of images with planes
 * @property {Tile | null} tile
 * @property {ScaledMap | MissingMap | null} map what was drawn of the tile
 * @property {boolean} visible in sight or next to it
 * @property {boolean} stale the canvas is to be drawn when it comes into sight
 */

/** @typedef {import("./caption.js").ShortNames} ShortNames */

const NARROW = 140; // a tile of fewer pixels has no room for more than a name: the bar says the probability
const PREDICTED = "rgba(0, 224, 255, 0.95)"; // the line around what is predicted, as in the logged pictures
// Pixels of a caption's width without text, and what "✓ " and " · >99 %" take.
const CAPTION_MARGINS = 20;
const MARK_WIDTH = 16;
const PROBABILITY_WIDTH = 58;
// Room that the tip with a value takes at the pointer's right and below it.
const TIP_WIDTH = 170;
const TIP_HEIGHT = 50;

/**
 * How maps are drawn now.
 * @param {State} state
 * @returns {DrawingStyle}
 */
export function drawingStyle(state) {
  const colormap = activeColormap(state);
  return { colormap, table: overlayTable(colormap, state), smooth: state.smooth, opacity: state.opacity };
}

/**
 * Draw one tile into a canvas.
 * @param {HTMLCanvasElement} canvas
 * @param {State} state
 * @param {Timeline[]} timelines those shown together
 * @param {Tile} tile
 * @param {DrawingStyle} style
 * @returns {ScaledMap | MissingMap | null} what it shows; null for an image without a map
 */
export function drawTile(canvas, state, timelines, tile, style) {
  const { timeline, imageIndex } = tile;
  drawPicture(canvas, state, tile);
  const map = tile.method === null ? null : tileMap(state, timelines, tile);
  if (map && "missing" in map) drawMissing(canvas, map.missing, map.reason);
  else if (map) drawMap(canvas, map, style);
  drawPlaneLines(canvas, state, tile);
  if (tile.over) drawOver(canvas, state, timelines, { ...tile.over, planes: shownPlanes(state, tile) }, style);
  const outline = state.outlines ? outlineIn(timeline, imageIndex) : undefined;
  if (outline) drawOutline(canvas, outline);
  const predicted = state.outlines && tile.method !== null ? timeline.predictedOutline(tile.lookIndex, imageIndex) : null;
  if (predicted) drawOutline(canvas, predicted, PREDICTED);
  return map;
}

/**
 * Draw the image of a tile, or those of its planes that the tile shows, side by side.
 * @param {HTMLCanvasElement} canvas
 * @param {State} state
 * @param {Tile} tile
 */
export function drawPicture(canvas, state, tile) {
  const { timeline, imageIndex } = tile;
  const planes = shownPlanes(state, tile);
  if (!planes.length || !timeline.images.length) return drawImage(canvas, timeline.images[imageIndex]);
  context2d(canvas).clearRect(0, 0, canvas.width, canvas.height);
  const boxes = boxesOf({ x: 0, y: 0, width: canvas.width, height: canvas.height }, planes.length, sideOf(planes));
  planes.forEach((k, n) => drawImage(canvas, timeline.planePictures[imageIndex][k], boxes[n]));
}

/**
 * Say of each of several planes its number and its share of the evidence.
 * @param {HTMLCanvasElement} canvas
 * @param {State} state
 * @param {Tile} tile
 */
export function drawPlaneLines(canvas, state, tile) {
  const planes = shownPlanes(state, tile);
  if (planes.length < 2) return;
  const boxes = boxesOf({ x: 0, y: 0, width: canvas.width, height: canvas.height }, planes.length, sideOf(planes));
  planes.forEach((k, n) => drawLine(canvas, planeText(tile, k, tile.method ?? state.method), boxes[n]));
}

/**
 * Draw another tile over the right part of the canvas.
 * @param {HTMLCanvasElement} canvas
 * @param {State} state
 * @param {Timeline[]} timelines
 * @param {Tile} tile
 * @param {DrawingStyle} style
 */
function drawOver(canvas, state, timelines, tile, style) {
  const { width, height } = canvas;
  const other = html("canvas", { width, height });
  drawTile(other, state, timelines, tile, style);
  const from = Math.round(width * state.swipeAt);
  const context = context2d(canvas);
  if (from < width) context.drawImage(other, from, 0, width - from, height, from, 0, width - from, height);
  context.fillStyle = "#fff";
  context.fillRect(from - 1, 0, 2, height);
}

export class TileBoard {
  /**
   * @param {import("./main.js").App} app
   * @param {(tile: Tile) => void} onOpen is called with the tile that is clicked
   */
  constructor(app, onOpen) {
    this.app = app;
    this.onOpen = onOpen;
    /** @type {Timeline[]} */
    this.timelines = [];
    this.style = drawingStyle(app.state);
    /** @type {Slot[]} in the order of the tiles; those beyond the last tile are hidden */
    this.pool = [];
    /** @type {Map<Element, Slot>} by figure */
    this.slots = new Map();
    /** @type {ShortNames} */
    this.shortNames = { first: (name) => name, second: (name) => name, fitting: ([text]) => text };
    this.shortenedFor = "";
    this.headings = html("div", { class: "headings" });
    this.board = html("div", { class: "board" });
    this.keepStop = rove(this.board, ".tile");
    this.note = html("p", { class: "note" });
    this.tip = html("div", { class: "tip", role: "tooltip", hidden: true });
    this.element = html("div", { class: "tiles" }, this.headings, this.board, this.note, this.tip);
    this.observer = new IntersectionObserver((entries) => this.#drawSeen(entries), { rootMargin: "300px" });
  }

  /** @param {import("./views.js").Arrangement} arrangement */
  show({ timelines, headings, tiles, note }) {
    const { state } = this.app;
    this.timelines = timelines;
    this.style = drawingStyle(state);
    const columns = headings ? `repeat(${headings.length}, ${state.size}px)` : `repeat(auto-fill, ${state.size}px)`;
    this.board.style.gridTemplateColumns = columns;
    this.#showHeadings(headings ?? [], columns);
    setText(this.note, note);
    while (this.pool.length < tiles.length) this.pool.push(this.#makeSlot());
    this.#shortenNames();
    this.pool.forEach((slot, n) => this.#put(slot, tiles[n]));
    this.keepStop();
  }

  /** Cut the class names to what fits into a caption's first line, and into its second between the mark and the rest. */
  #shortenNames() {
    const { size } = this.app.state;
    const key = JSON.stringify([size, this.timelines.map(({ id, revision }) => [id, revision])]);
    if (key === this.shortenedFor || !this.pool.length) return;
    this.shortenedFor = key;
    const names = [...new Set(this.timelines.flatMap(({ captionClasses }) => captionClasses))];
    const [{ first, second }] = this.pool;
    const width = size - CAPTION_MARGINS;
    const measure = textRuler(first);
    this.shortNames = {
      first: nameShortener(names, width, measure),
      fitting: (texts) => texts.find((text) => measure(text) <= width) ?? texts[texts.length - 1],
      second: nameShortener(names, width - MARK_WIDTH - (size < NARROW ? 0 : PROBABILITY_WIDTH), textRuler(second)),
    };
  }

  /**
   * @param {import("./views.js").Heading[]} headings
   * @param {string} columns
   */
  #showHeadings(headings, columns) {
    this.headings.style.gridTemplateColumns = columns;
    this.headings.hidden = !headings.length;
    while (this.headings.children.length > headings.length) this.headings.lastElementChild?.remove();
    while (this.headings.children.length < headings.length) this.headings.append(html("div"));
    headings.forEach(({ title, fullName = title, step }, n) => {
      const element = /** @type {HTMLElement} */ (this.headings.children[n]);
      setText(element, step === undefined ? title : `${title}\nstep ${formatNumber(step)}`);
      element.title = fullName;
    });
  }

  /** @returns {Slot} */
  #makeSlot() {
    const canvas = html("canvas");
    const strength = html("div", { class: "strength", title: "largest value, as a share of this image's full color over time" });
    const bar = html("div", { class: "bar" });
    const pin = html("div", { class: "pin-sign", hidden: true });
    const first = html("div", { class: "first" });
    const second = html("div", { class: "second" });
    const third = html("div", { class: "third", hidden: true });
    const figure = html(
      "div",
      { class: "tile", role: "button", tabindex: -1 },
      html("div", { class: "picture" }, canvas, strength, pin),
      html("div", { class: "track" }, bar),
      html("div", { class: "caption" }, first, second, third),
    );
    /** @type {Slot} */
    const slot = { figure, canvas, strength, pin, bar, first, second, third, tile: null, map: null, visible: false, stale: false };
    this.#listen(slot);
    this.slots.set(figure, slot);
    this.board.append(figure);
    this.observer.observe(figure);
    return slot;
  }

  /** @param {Slot} slot */
  #listen(slot) {
    const { figure, canvas } = slot;
    const open = () => slot.tile && this.onOpen(slot.tile);
    figure.addEventListener("click", open);
    figure.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault(); // or the same key press would close: the focus goes to the dialog's ✕; nor is it to play
      open();
    });
    figure.addEventListener("pointermove", (event) => showTip(this.tip, this.app.state, canvas, slot.tile, slot.map, event));
    figure.addEventListener("pointerleave", () => (this.tip.hidden = true));
  }

  /**
   * @param {Slot} slot
   * @param {Tile | null | undefined} tile null leaves the place empty, undefined takes it away
   */
  #put(slot, tile) {
    slot.tile = tile ?? null;
    slot.figure.hidden = tile === undefined;
    slot.figure.classList.toggle("empty", tile === null);
    if (tile === undefined) return;
    const { state } = this.app;
    const { aspect } = this.timelines[0];
    const width = Math.round(state.size * (globalThis.devicePixelRatio || 1));
    const height = Math.round(width / (tile?.timeline.aspect ?? aspect));
    if (slot.canvas.width !== width || slot.canvas.height !== height) {
      slot.canvas.width = width;
      slot.canvas.height = height;
    }
    if (tile) writeCaption(slot, tile, this.shortNames, state.size < NARROW, planeWords(state, tile));
    if (tile) this.#showNote(slot, tile);
    if (slot.visible) this.#draw(slot);
    else slot.stale = true;
  }

  /**
   * @param {Slot} slot
   * @param {Tile} tile
   */
  #showNote({ figure, pin }, { timeline, imageIndex }) {
    const { pinned, note } = this.app.annotations.of(timeline.probe.hashes[imageIndex]);
    figure.classList.toggle("pinned", pinned);
    pin.hidden = !pinned && !note;
    setText(pin, `${pinned ? "★" : ""}${note ? "✎" : ""}`);
    pin.title = note;
    const said = [figure.getAttribute("aria-label"), pinned ? "pinned" : "", note].filter(Boolean).join("\n");
    if (pinned || note) figure.setAttribute("aria-label", said);
  }

  /** @param {Slot} slot */
  #draw(slot) {
    slot.stale = false;
    if (!slot.tile) return;
    slot.map = drawTile(slot.canvas, this.app.state, this.timelines, slot.tile, this.style);
    const missing = slot.map && "missing" in slot.map ? slot.map : null;
    slot.figure.dataset.missing = missing?.missing ?? "";
    slot.figure.setAttribute("aria-description", missing?.reason ?? "");
    slot.strength.style.height = `${100 * strengthOf(this.app.state, slot.tile)}%`;
  }

  /** @param {IntersectionObserverEntry[]} entries */
  #drawSeen(entries) {
    for (const { target, isIntersecting } of entries) {
      const slot = this.slots.get(target);
      if (!slot) continue;
      slot.visible = isIntersecting;
      if (isIntersecting && slot.stale) this.#draw(slot);
    }
  }
}

/**
 * Show the value under the pointer.
 * @param {HTMLElement} tip
 * @param {State} state
 * @param {HTMLCanvasElement} canvas
 * @param {Tile | null} tile
 * @param {ScaledMap | MissingMap | null} map what the canvas shows of the tile
 * @param {PointerEvent} event
 */
export function showTip(tip, state, canvas, tile, map, event) {
  const box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width;
  const y = (event.clientY - box.top) / box.height;
  tip.hidden = true;
  if (!tile || !map || x < 0 || y < 0 || x >= 1 || y >= 1) return;
  tip.hidden = false;
  setText(tip, "missing" in map ? map.reason : cellText(state, tile, map, Math.floor(y * map.rows), Math.floor(x * map.columns)));
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - TIP_WIDTH)}px`;
  tip.style.top = `${Math.min(event.clientY + 16, innerHeight - TIP_HEIGHT)}px`;
}

/**
 * What a cell of a tile's map says.
 * @param {State} state
 * @param {Tile} tile
 * @param {ScaledMap} map
 * @param {number} row
 * @param {number} column
 */
export function cellText(state, tile, map, row, column) {
  const place = placeInPlane(map, row, column);
  const { planes } = tile.timeline.probe;
  if (map.planes && place.plane === undefined) return "";
  const { value, text } = describeValue(state, tile, map, row, column);
  const plane = planes && place.plane !== undefined ? `${planes.kind} ${planes.numbers[place.plane]}, ` : "";
  return `${value === null ? "" : `${formatNumber(value)} · `}${text}\n${plane}row ${place.row + 1}, column ${place.column + 1}`;
}
