// Draws one tile: the image, and the map over it. Values are interpolated before they are colored.

import { isDiverging } from "./colors.js";
import { context2d } from "./dom.js";
import { interpolate } from "./interpolate.js";

const GAP = 1; // pixel between planes
const [LEAST_FONT, MOST_FONT] = [10, 22]; // pixels of what is written into a picture
const FINE_CELLS = 56; // a smooth map is computed to about so many cells a side; the browser interpolates the rest

/**
 * How maps are drawn.
 * @typedef {object} DrawingStyle
 * @property {string} colormap
 * @property {Uint32Array} table the colormap's pixels, see overlayTable
 * @property {boolean} smooth whether cells are interpolated
 * @property {number} [opacity] of maps of colors
 */

/** @type {CanvasRenderingContext2D | undefined} */
let scratchContext;

/**
 * The canvas that each map is written to before it is laid over its image. It is in the computer's memory, not in the
 * graphics card's: it is written for every tile.
 */
function scratch() {
  return (scratchContext ??= context2d(document.createElement("canvas"), { willReadFrequently: true }));
}

/**
 * Draw `image` into the canvas, or a gray square while it is decoded.
 * @param {HTMLCanvasElement} canvas
 * @param {ImageBitmap | undefined} image
 * @param {import("./matrix.js").Box} [box] where on the canvas
 */
export function drawImage(canvas, image, { x, y, width, height } = wholeOf(canvas)) {
  const context = context2d(canvas);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = image && image.width < width / 3 ? "low" : "high";
  if (image) context.drawImage(image, x, y, width, height);
  else {
    context.fillStyle = "#888";
    context.fillRect(x, y, width, height);
  }
}

/**
 * Where planes of an image stand on a canvas, in rows.
 * @param {import("./matrix.js").Box} box
 * @param {number} count
 * @param {number} side how many stand in a row
 */
export function boxesOf({ x, y, width, height }, count, side) {
  const at = (/** @type {number} */ n, /** @type {number} */ length) => Math.round((n * length) / side);
  return Array.from({ length: count }, (_, n) => {
    const [row, column] = [Math.floor(n / side), n % side];
    const [left, top] = [at(column, width), at(row, height)];
    const gap = side > 1 ? GAP : 0;
    return { x: x + left, y: y + top, width: Math.max(1, at(column + 1, width) - left - gap), height: Math.max(1, at(row + 1, height) - top - gap) };
  });
}

/**
 * Write a line at the foot of a box, light on dark, if it has room.
 * @param {HTMLCanvasElement} canvas
 * @param {string} text
 * @param {import("./matrix.js").Box} box
 */
export function drawLine(canvas, text, { x, y, width, height }) {
  const context = context2d(canvas);
  const ratio = canvas.clientWidth ? canvas.width / canvas.clientWidth : globalThis.devicePixelRatio || 1;
  const size = Math.round(Math.max(LEAST_FONT * ratio, Math.min(width / 9, MOST_FONT)));
  context.font = `${size}px system-ui, sans-serif`;
  const needed = context.measureText(text).width + size;
  if (needed > width || 3 * size > height) return;
  context.fillStyle = "rgba(0, 0, 0, 0.7)";
  context.fillRect(x, y + height - 1.4 * size, needed, 1.4 * size);
  context.fillStyle = "#fff";
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillText(text, x + size / 2, y + height - 0.7 * size);
}

/**
 * The whole of a canvas.
 * @param {HTMLCanvasElement} canvas
 */
const wholeOf = ({ width, height }) => ({ x: 0, y: 0, width, height });

/**
 * Lay a map over what the canvas shows.
 * @param {HTMLCanvasElement} canvas
 * @param {import("./scale.js").ScaledMap} map
 * @param {DrawingStyle} style
 * @param {import("./matrix.js").Box} [box] where on the canvas
 */
export function drawMap(canvas, map, style, box = wholeOf(canvas)) {
  const { planes, side = 1 } = map;
  if (!planes) return drawPlane(canvas, map, style, box);
  const [rows, columns] = [map.rows / side, map.columns / side];
  boxesOf(box, planes.length, side).forEach((own, n) => drawPlane(canvas, { values: planeValues(map, n), rows, columns }, style, own));
}

/**
 * The values of one of the planes that stand side by side in a map.
 * @param {import("./scale.js").ScaledMap} map
 * @param {number} n
 */
function planeValues({ values, rows, columns, side = 1 }, n) {
  const [high, wide] = [rows / side, columns / side];
  const [top, left] = [Math.floor(n / side) * high, (n % side) * wide];
  const own = new Float32Array(high * wide);
  for (let row = 0; row < high; row++) own.set(values.subarray((top + row) * columns + left, (top + row) * columns + left + wide), row * wide);
  return own;
}

/**
 * Lay the map of one plane over its box: interpolated by itself, it does not run into the plane beside it.
 * @param {HTMLCanvasElement} canvas
 * @param {import("./scale.js").ScaledMap} map
 * @param {DrawingStyle} style
 * @param {import("./matrix.js").Box} box
 */
function drawPlane(canvas, { values, rows, columns, isColor }, style, box) {
  const cells = Math.min(FINE_CELLS, box.width); // more than pixels are not seen
  const factor = style.smooth ? Math.max(1, Math.round(cells / Math.max(rows, columns))) : 1;
  const finer = (/** @type {Float32Array} */ plane) => (factor > 1 ? interpolate(plane, rows, columns, factor) : plane);
  const size = rows * columns;
  const pixels = isColor
    ? inColors([0, 1, 2].map((n) => finer(values.subarray(n * size, (n + 1) * size))), rows * factor, columns * factor, style)
    : colored(finer(values), rows * factor, columns * factor, style);
  const pen = scratch();
  if (pen.canvas.width !== pixels.width || pen.canvas.height !== pixels.height) {
    pen.canvas.width = pixels.width;
    pen.canvas.height = pixels.height;
  }
  pen.putImageData(pixels, 0, 0);
  const context = context2d(canvas);
  context.imageSmoothingEnabled = style.smooth;
  context.imageSmoothingQuality = "low";
  context.drawImage(pen.canvas, box.x, box.y, box.width, box.height);
}

/** @type {Map<string, ImageData>} one per size, written over and over */
const imageDataBySize = new Map();

/**
 * @param {number} rows
 * @param {number} columns
 */
function imageDataOf(rows, columns) {
  const key = `${columns}x${rows}`;
  const imageData = imageDataBySize.get(key) ?? new ImageData(columns, rows);
  imageDataBySize.set(key, imageData);
  return imageData;
}

/**
 * @param {Float32Array[]} planes red, green and blue from -1 to 1
 * @param {number} rows
 * @param {number} columns
 * @param {DrawingStyle} style
 */
function inColors(planes, rows, columns, { opacity = 1 }) {
  const imageData = imageDataOf(rows, columns);
  const { data } = imageData; // which clamps and rounds
  for (let k = 0; k < rows * columns; k++) {
    planes.forEach((plane, n) => (data[4 * k + n] = 127.5 * (plane[k] + 1)));
    data[4 * k + 3] = 255 * opacity;
  }
  return imageData;
}

/**
 * @param {Float32Array} values
 * @param {number} rows
 * @param {number} columns
 * @param {DrawingStyle} style
 */
function colored(values, rows, columns, { table, colormap }) {
  const imageData = imageDataOf(rows, columns);
  const pixels = new Uint32Array(imageData.data.buffer);
  const [factor, zero] = isDiverging(colormap) ? [127.5, 128] : [255, 0.5];
  for (let k = 0; k < pixels.length; k++) {
    const index = values[k] * factor + zero;
    pixels[k] = table[index < 0 ? 0 : index > 255 ? 255 : index | 0];
  }
  return imageData;
}

/**
 * Mark a map that says nothing: dimmed, hatched, with words, so that nobody takes it for a cold region.
 * @param {HTMLCanvasElement} canvas
 * @param {string} words
 * @param {string} [reason] a sentence, below the words where there is room
 * @param {import("./matrix.js").Box} [box] where on the canvas
 */
export function drawMissing(canvas, words, reason = "", { x: left, y: top, width, height } = wholeOf(canvas)) {
  const context = context2d(canvas);
  context.save();
  context.translate(left, top);
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#888";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
  context.fillStyle = "rgba(0, 0, 0, 0.6)";
  context.fillRect(0, 0, width, height);
  context.strokeStyle = "rgba(255, 255, 255, 0.16)";
  context.lineWidth = Math.max(1, width / 80);
  context.beginPath();
  for (let x = -height; x < width; x += Math.max(6, width / 14)) {
    context.moveTo(x, height);
    context.lineTo(x + height, 0);
  }
  context.stroke();
  context.fillStyle = "#fff";
  context.font = `600 ${Math.max(10, width / 11)}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const size = Math.max(10, width / 15);
  context.fillText(words, width / 2, height / 2 - (reason ? 1.5 * size : 0), width * 0.94);
  context.font = `${size}px system-ui, sans-serif`;
  const room = Math.floor((height / 2 - 0.5 * size) / (1.25 * size));
  const lines = wrapped(context, reason, width * 0.9);
  const shown = lines.length > room ? [...lines.slice(0, room - 1), `${lines[room - 1]} …`] : lines;
  shown.forEach((line, n) => context.fillText(line, width / 2, height / 2 + n * 1.25 * size, width * 0.94));
  context.restore();
}

/**
 * A text in lines of at most a width.
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} width
 */
function wrapped(context, text, width) {
  /** @type {string[]} */
  const lines = [];
  for (const word of text.split(" ")) {
    const line = lines.length ? `${lines[lines.length - 1]} ${word}` : word;
    if (lines.length && context.measureText(line).width <= width) lines[lines.length - 1] = line;
    else lines.push(word);
  }
  return lines;
}

/**
 * Stroke the outline of the object, dark below bright, so that it is seen on any image.
 * @param {HTMLCanvasElement} canvas
 * @param {Path2D} path in units of the canvas
 * @param {string} [line] its color
 */
export function drawOutline(canvas, path, line = "rgba(255, 255, 255, 0.85)") {
  const context = context2d(canvas);
  const scaled = new Path2D();
  scaled.addPath(path, { a: canvas.width, d: canvas.height });
  const strokes = /** @type {const} */ ([[2.5, "rgba(0, 0, 0, 0.4)"], [1, line]]);
  for (const [width, color] of strokes) {
    context.lineWidth = width * Math.max(1, canvas.width / 400);
    context.strokeStyle = color;
    context.stroke(scaled);
  }
}
