// Bilinear interpolation, as torch.nn.functional.interpolate(mode="bilinear", align_corners=False) does it.

/**
 * For each position of a finer axis the two coarse ones around it, and the weight of the second.
 * @typedef {{ low: Int32Array, high: Int32Array, weight: Float32Array }} Taps
 */

/** @type {Map<string, Taps>} */
const tapsBySize = new Map();

/**
 * @param {number} count positions of the coarse axis
 * @param {number} factor
 * @returns {Taps}
 */
function tapsOf(count, factor) {
  const key = `${count}x${factor}`;
  const known = tapsBySize.get(key);
  if (known) return known;
  const low = new Int32Array(count * factor);
  const high = new Int32Array(count * factor);
  const weight = new Float32Array(count * factor);
  for (let k = 0; k < count * factor; k++) {
    const position = Math.max(0, (k + 0.5) / factor - 0.5); // between the centers of pixels
    low[k] = Math.floor(position);
    high[k] = Math.min(low[k] + 1, count - 1);
    weight[k] = position - low[k];
  }
  const taps = { low, high, weight };
  tapsBySize.set(key, taps);
  return taps;
}

/**
 * A grid made finer by an integer factor. One axis after the other, with typed arrays: it is done for each tile at
 * each step of the slider.
 * @param {Float32Array} values rows × columns
 * @param {number} rows
 * @param {number} columns
 * @param {number} factor
 * @returns {Float32Array} (rows · factor) × (columns · factor)
 */
export function interpolate(values, rows, columns, factor) {
  const across = tapsOf(columns, factor);
  const down = tapsOf(rows, factor);
  const width = columns * factor;
  const wide = new Float32Array(rows * width);
  for (let y = 0, at = 0; y < rows; y++) {
    for (let x = 0; x < width; x++, at++) {
      const left = values[y * columns + across.low[x]];
      wide[at] = left + (values[y * columns + across.high[x]] - left) * across.weight[x];
    }
  }
  const result = new Float32Array(rows * factor * width);
  for (let y = 0, at = 0; y < rows * factor; y++) {
    const upper = down.low[y] * width;
    const lower = down.high[y] * width;
    const weight = down.weight[y];
    for (let x = 0; x < width; x++, at++) result[at] = wide[upper + x] + (wide[lower + x] - wide[upper + x]) * weight;
  }
  return result;
}
