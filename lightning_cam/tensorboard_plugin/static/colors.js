// Colormaps as even control points from 0 to 1 (or -1 to 1), made for even steps to the eye and for color-blind readers.
// inferno, viridis: S. van der Walt and N. Smith; cividis: J. Nuñez et al.; coolwarm: K. Moreland;
// berlin, managua: F. Crameri; managua from its other end, so that blue is the negative side in all of them.

/** @type {Record<string, string>} */
const CONTROL_POINTS = {
  inferno: "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 fcffa4",
  viridis: "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725",
  cividis: "00224e 002e6a 1a386f 32436d 434e6c 535a6d 61656f 6f7073 7d7c78 8c8878 9b9476 aba072 bcae6c cdbb63 dec958 f0d846 fee838",
  coolwarm: "3b4cc0 4e68d8 6282ea 779af7 8db0fe a3c2fe b9d0f9 ccd9ed dddcdc ecd3c5 f5c4ac f7b093 f4987a eb7d62 dd5f4b ca3b37 b40426",
  berlin: "9eb0ff 79abed 519fd3 3685ad 286886 1d4b61 14303e 111a20 190c09 2b0e01 411201 5b1d08 7d341e 9e513f be6f63 df8f89 ffadad",
  managua: "81e7ff 76c7ec 6baada 608ec7 5775b3 505d9c 4c457f 4e3260 582948 6a2c3b 823a39 9c4d3d b26343 c67b4b d99554 ecb15d ffcf67",
};
export const SEQUENTIAL = ["inferno", "viridis", "cividis"];
export const DIVERGING = ["coolwarm", "berlin", "managua"];

// Okabe and Ito's palette, told apart with any color vision, and three more.
export const SERIES_COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#8a5a2b", "#7f9a1f", "#c2255c"];
const DASHES = ["none", "7 4", "1 4", "9 4 1 4"];

/**
 * How a line of a chart is drawn.
 * @typedef {object} LineStyle
 * @property {string} color
 * @property {string} dash the value of stroke-dasharray
 */

/**
 * The style of the n-th line of a chart, no two of the first forty alike.
 * @param {number} n
 * @returns {LineStyle}
 */
export function lineStyle(n) {
  return { color: SERIES_COLORS[n % SERIES_COLORS.length], dash: DASHES[Math.floor(n / SERIES_COLORS.length) % DASHES.length] };
}

/** @type {Map<string, number[][]>} */
const colorTables = new Map();

/**
 * 256 colors [red, green, blue] from 0 to 255, interpolated between the control points.
 * @param {string} colormap
 */
function colorTable(colormap) {
  const known = colorTables.get(colormap);
  if (known) return known;
  const points = CONTROL_POINTS[colormap].split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const colors = Array.from({ length: 256 }, (_, n) => {
    const position = (n / 255) * (points.length - 1);
    const low = Math.min(Math.floor(position), points.length - 2);
    return points[low].map((value, channel) => value + (points[low + 1][channel] - value) * (position - low));
  });
  colorTables.set(colormap, colors);
  return colors;
}

/**
 * Whether a colormap goes from -1 to 1.
 * @param {string} colormap
 */
export const isDiverging = (colormap) => DIVERGING.includes(colormap);

/**
 * 256 pixels of RGBA: the stronger, the more opaque, so that regions without evidence show the image as it is.
 * Index 0 to 255 stands for 0 to 1, with a diverging colormap for -1 to 1. With `squareRoot`, a value has the color of
 * its square root: weak evidence shows, the order stays.
 * @param {string} colormap
 * @param {Pick<import("./state.js").State, "opacity" | "threshold" | "squareRoot">} style
 * @returns {Uint32Array} one element per pixel, as in the memory of an ImageData
 */
export function overlayTable(colormap, { opacity, threshold, squareRoot }) {
  const colors = colorTable(colormap);
  const diverging = isDiverging(colormap);
  const pixels = new Uint8ClampedArray(256 * 4);
  for (let n = 0; n < 256; n++) {
    const sign = diverging ? Math.sign(n - 127.5) : 1;
    const value = diverging ? (Math.abs(n - 127.5) - 0.5) / 127 : n / 255; // the middle two are 0
    const strength = squareRoot ? Math.sqrt(value) : value;
    const position = diverging ? 127.5 + sign * (0.5 + 127 * strength) : 255 * strength;
    pixels.set(colors[Math.round(position)], 4 * n);
    pixels[4 * n + 3] = value < threshold ? 0 : 255 * opacity * strength;
  }
  return new Uint32Array(pixels.buffer);
}

/**
 * A CSS gradient of the colormap, for the legend.
 * @param {string} colormap
 */
export function gradient(colormap) {
  const stops = CONTROL_POINTS[colormap].split(" ").map((hex) => `#${hex}`);
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
