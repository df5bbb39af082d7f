// Draws one tile: the image, and the map over it. Values are interpolated before they are colored.

import { isDiverging } from "./colors.js";

const FINE = 56; // a smooth map is computed to about so many cells a side; the browser interpolates the rest
const scratch = document.createElement("canvas");
const pen = scratch.getContext("2d", { willReadFrequently: true }); // in memory: it is written for every tile

/** Draw `image` into the canvas, or a gray square while it is decoded. */
export function drawImage(canvas, image) {
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = image && image.width < canvas.width / 3 ? "low" : "high";
  if (image) context.drawImage(image, 0, 0, canvas.width, canvas.height);
  else {
    context.fillStyle = "#888";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
}

/**
 * Lay a map over what the canvas shows.
 * values: rows x columns numbers, in units in which 1 is the full color; style: {table, colormap, smooth}.
 */
export function drawMap(canvas, values, rows, columns, style) {
  const fine = style.smooth ? Math.max(1, Math.round(FINE / Math.max(rows, columns))) : 1;
  const grid = fine > 1 ? interpolate(values, rows, columns, fine) : values;
  const pixels = colored(grid, rows * fine, columns * fine, style);
  if (scratch.width !== pixels.width || scratch.height !== pixels.height) {
    scratch.width = pixels.width;
    scratch.height = pixels.height;
  }
  pen.putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = style.smooth;
  context.imageSmoothingQuality = "low";
  context.drawImage(scratch, 0, 0, canvas.width, canvas.height);
}

const sheets = new Map(); // one ImageData per size, written over and over

function colored(grid, rows, columns, { table, colormap }) {
  const key = `${columns}x${rows}`;
  if (!sheets.has(key)) sheets.set(key, new ImageData(columns, rows));
  const sheet = sheets.get(key);
  const pixels = new Uint32Array(sheet.data.buffer);
  const [factor, zero] = isDiverging(colormap) ? [127.5, 128] : [255, 0.5];
  for (let k = 0; k < pixels.length; k++) {
    const index = grid[k] * factor + zero;
    pixels[k] = table[index < 0 ? 0 : index > 255 ? 255 : index | 0];
  }
  return sheet;
}

const taps = new Map();

/** For each fine position the two coarse ones around it and the share of the second (pixel centers as in torch). */
function tapsOf(count, fine) {
  const key = `${count}x${fine}`;
  if (!taps.has(key)) {
    const low = new Int32Array(count * fine);
    const high = new Int32Array(count * fine);
    const share = new Float32Array(count * fine);
    for (let k = 0; k < count * fine; k++) {
      const place = Math.max(0, (k + 0.5) / fine - 0.5);
      low[k] = Math.floor(place);
      high[k] = Math.min(low[k] + 1, count - 1);
      share[k] = place - low[k];
    }
    taps.set(key, { low, high, share });
  }
  return taps.get(key);
}

function interpolate(values, rows, columns, fine) {
  const across = tapsOf(columns, fine);
  const down = tapsOf(rows, fine);
  const width = columns * fine;
  const wide = new Float32Array(rows * width);
  for (let y = 0, at = 0; y < rows; y++) {
    for (let x = 0; x < width; x++, at++) {
      const left = values[y * columns + across.low[x]];
      wide[at] = left + (values[y * columns + across.high[x]] - left) * across.share[x];
    }
  }
  const result = new Float32Array(rows * fine * width);
  for (let y = 0, at = 0; y < rows * fine; y++) {
    const upper = down.low[y] * width;
    const lower = down.high[y] * width;
    const share = down.share[y];
    for (let x = 0; x < width; x++, at++) result[at] = wide[upper + x] + (wide[lower + x] - wide[upper + x]) * share;
  }
  return result;
}

/** Mark a map that says nothing: dimmed, hatched, with words, so that nobody takes it for a cold region. */
export function drawNoEvidence(canvas, words = "no evidence") {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.save();
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
  context.fillText(words, width / 2, height / 2, width * 0.94);
  context.restore();
}

/** Stroke the outline of the object, given in units of the canvas. */
export function drawOutline(canvas, path) {
  const context = canvas.getContext("2d");
  const whole = new Path2D();
  whole.addPath(path, { a: canvas.width, d: canvas.height });
  for (const [line, color] of [[2.5, "rgba(0, 0, 0, 0.4)"], [1, "rgba(255, 255, 255, 0.85)"]]) {
    context.lineWidth = line * Math.max(1, canvas.width / 400);
    context.strokeStyle = color;
    context.stroke(whole);
  }
}
