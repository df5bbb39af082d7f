// Colormaps as even control points from 0 to 1 (or -1 to 1), made for even steps to the eye and for color-blind readers.
// inferno, viridis: S. van der Walt and N. Smith; cividis: J. Nuñez et al.; coolwarm: K. Moreland;
// berlin, managua: F. Crameri.

const POINTS = {
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
export const SERIES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#8a5a2b", "#7f9a1f", "#c2255c"];
const DASHES = ["none", "7 4", "1 4", "9 4 1 4"];

/** How the n-th line of a chart is drawn, no two of the first forty alike: {color, dash}. */
export function lineStyle(n) {
  return { color: SERIES[n % SERIES.length], dash: DASHES[Math.floor(n / SERIES.length) % DASHES.length] };
}

const tables = new Map();

function table(name) {
  if (!tables.has(name)) {
    const points = POINTS[name].split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    const colors = Array.from({ length: 256 }, (_, n) => {
      const place = (n / 255) * (points.length - 1);
      const low = Math.min(Math.floor(place), points.length - 2);
      return points[low].map((value, c) => value + (points[low + 1][c] - value) * (place - low));
    });
    tables.set(name, colors);
  }
  return tables.get(name);
}

export const isDiverging = (name) => DIVERGING.includes(name);

/**
 * 256 pixels of RGBA: the stronger, the more opaque, so that regions without evidence show the image as it is.
 * Index 0 to 255 stands for 0 to 1, with a diverging colormap for -1 to 1. With `root`, a value has the color of its
 * square root: weak evidence shows, the order stays.
 */
export function overlayTable(name, { opacity, threshold, root }) {
  const colors = table(name);
  const pixels = new Uint8ClampedArray(256 * 4);
  for (let n = 0; n < 256; n++) {
    const sign = isDiverging(name) ? Math.sign(n - 127.5) : 1;
    const value = isDiverging(name) ? (Math.abs(n - 127.5) - 0.5) / 127 : n / 255; // the middle two are 0
    const strength = root ? Math.sqrt(value) : value;
    const place = isDiverging(name) ? 127.5 + sign * (0.5 + 127 * strength) : 255 * strength;
    pixels.set(colors[Math.round(place)], 4 * n);
    pixels[4 * n + 3] = value < threshold ? 0 : 255 * opacity * strength;
  }
  return new Uint32Array(pixels.buffer);
}

/** A CSS gradient of the colormap, for the legend. */
export function gradient(name) {
  const stops = POINTS[name].split(" ").map((hex) => `#${hex}`);
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
