// What is shown, as one picture with its captions: to save it.

import { blockLines, depthContent } from "./depth.js";
import { context2d, html } from "./dom.js";
import { chosenWords, planeWords } from "./planes.js";
import { drawTile, drawingStyle } from "./tiles.js";
import { formatEpoch, formatNumber, formatPercent, readable } from "./text.js";
import { SCALES } from "./state.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */
/** @typedef {import("./views.js").Arrangement} Arrangement */

const [MARGIN, GAP, LINE, FONT] = [14, 10, 18, 13]; // pixels
const MOST_PIXELS = 2 ** 26; // of a picture: browsers refuse much larger canvases
const FAMILY = 'system-ui, Roboto, "Segoe UI", "Noto Sans", sans-serif';

/**
 * What a picture, an animation or a table is of: run, method, step and scale.
 * @param {State} state
 * @param {Timeline[]} timelines
 * @param {boolean} [allSteps] it is of all of them
 */
export function captionOf(state, timelines, allSteps = false) {
  const [first] = timelines;
  const look = first.looks[first.lookAt(state.step ?? -Infinity)];
  const runs = timelines.map(({ fullName }) => fullName).join(", ");
  const byDepth = state.view === "depth" ? depthContent(state, first) : null;
  const method = byDepth ? `${readable(byDepth.method)}, what each block reads of image ${byDepth.imageIndex + 1} (${first.nameOf(byDepth.imageIndex)})` : state.view === "methods" ? first.methods.map(readable).join(", ") : readable(state.method ?? "");
  const last = first.looks[first.looks.length - 1];
  const film = allSteps || state.view === "film" || state.view === "depth" || state.view === "overview";
  const place = film ? `steps ${formatNumber(first.looks[0].step)} to ${formatNumber(last.step)}` : `step ${formatNumber(look.step)} · ${formatEpoch(look.epoch)}`;
  const versus = state.view === "diff" ? ` · change since step ${formatNumber(first.looks[first.lookAt(state.reference ?? -Infinity)].step)}` : "";
  const other = timelines[timelines.length - 1];
  const beside = state.view === "pair" ? ` · B: ${other.fullName}, ${readable(state.otherMethod ?? state.method ?? "")}${state.otherStep === null ? "" : `, step ${formatNumber(state.otherStep)}`}` : "";
  const scale = `scale ${byDepth ? "common to all tiles" : SCALES[state.scale]}${state.squareRoot ? ", square root" : ""}${state.signed ? ", signed" : ""}`;
  const { planes } = first.probe;
  const chosen = planes ? ` · ${state.plane === null ? `${planes.kind}s ` : ""}${chosenWords(state, planes)}` : "";
  return `${runs} · ${method}${chosen} · ${place}${versus}${beside} · ${scale}`;
}

/**
 * @param {State} state
 * @param {Arrangement} arrangement
 * @param {number} columns
 * @param {number} size pixels of a tile's width
 * @param {string} caption
 * @returns {HTMLCanvasElement}
 */
export function composePicture(state, { timelines, headings, tiles }, columns, size, caption) {
  const rows = Math.ceil(tiles.length / columns);
  const aspect = timelines[0].aspect;
  const lines = timelines.some(({ probe }) => probe.planes) ? 3 : 2;
  const heightOf = (/** @type {number} */ width) => Math.round(width / aspect) + lines * LINE + GAP;
  const widest = Math.sqrt(MOST_PIXELS / Math.max(1, tiles.length)) - GAP;
  const side = Math.max(16, Math.floor(Math.min(size, widest)));
  const cell = heightOf(side);
  const width = Math.max(320, 2 * MARGIN + columns * (side + GAP) - GAP);
  const canvas = html("canvas");
  const context = context2d(canvas);
  const style = getComputedStyle(document.documentElement);
  const color = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  const words = `${FONT}px ${FAMILY}`;
  context.font = words;
  const captionLines = linesOf(context, caption, width - 2 * MARGIN);
  const headRoom = headings ? 2 * LINE : 0;
  canvas.width = width;
  canvas.height = 2 * MARGIN + headRoom + rows * cell + captionLines.length * LINE;
  context.fillStyle = color("--ground");
  context.fillRect(0, 0, width, canvas.height);
  context.textBaseline = "top";
  const write = (/** @type {string} */ text, /** @type {number} */ x, /** @type {number} */ y, /** @type {string} */ fill, /** @type {number} */ room, weight = 400) => {
    context.font = `${weight} ${words}`;
    context.fillStyle = fill;
    context.fillText(cut(context, text, room), x, y);
  };
  headings?.forEach(({ title, step }, n) => {
    const x = MARGIN + n * (side + GAP);
    write(title, x, MARGIN, color("--text"), side, 600);
    if (step !== undefined) write(`step ${formatNumber(step)}`, x, MARGIN + LINE, color("--muted"), side);
  });
  const drawing = drawingStyle(state);
  const small = html("canvas", { width: side, height: Math.round(side / aspect) });
  tiles.forEach((tile, n) => {
    if (!tile) return;
    const x = MARGIN + (n % columns) * (side + GAP);
    const y = MARGIN + headRoom + Math.floor(n / columns) * cell;
    small.height = Math.round(side / tile.timeline.aspect);
    drawTile(small, state, timelines, tile, drawing);
    context.drawImage(small, x, y);
    const [first, second, verdict] = linesFor(tile);
    write(first, x, y + small.height + 3, color("--text"), side, 600);
    write(second, x, y + small.height + 3 + LINE, color(verdict), side);
    write(planeWords(state, tile), x, y + small.height + 3 + 2 * LINE, color("--muted"), side);
  });
  captionLines.forEach((line, n) => write(line, MARGIN, canvas.height - MARGIN - (captionLines.length - n) * LINE, color("--muted"), width - 2 * MARGIN));
  return canvas;
}

/**
 * A tile's two lines, and the name of the color of the second.
 * @param {import("./views.js").Tile} tile
 */
function linesFor(tile) {
  const { timeline, lookIndex, imageIndex, caption } = tile;
  if (caption === "block") return [...blockLines(tile), "--muted"];
  const { predicted, probability, correct } = timeline.prediction(lookIndex, imageIndex);
  const { step, epoch } = timeline.looks[lookIndex];
  const first = caption === "step" ? `${formatNumber(step)} · ${formatEpoch(epoch)}` : timeline.nameOf(imageIndex);
  if (caption === "label") return [first, `image ${imageIndex + 1}`, "--muted"];
  if (predicted === null || probability === null) return [first, timeline.valueOf(lookIndex, imageIndex), "--muted"];
  const mark = correct === null ? "" : correct ? "✓ " : "✗ ";
  const color = correct === null ? "--muted" : correct ? "--right-text" : "--wrong-text";
  return [first, `${mark}${timeline.className(predicted)} · ${formatPercent(probability)}`, color];
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} width
 */
function cut(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  const letters = [...text];
  while (letters.length > 1 && context.measureText(`${letters.join("")}…`).width > width) letters.pop();
  return `${letters.join("")}…`;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} width
 */
function linesOf(context, text, width) {
  /** @type {string[]} */
  const lines = [];
  for (const part of text.split(" · ")) {
    const line = lines.length ? `${lines[lines.length - 1]} · ${part}` : part;
    if (lines.length && context.measureText(line).width <= width) lines[lines.length - 1] = line;
    else lines.push(part);
  }
  return lines;
}
