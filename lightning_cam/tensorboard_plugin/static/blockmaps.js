// What the blocks of a model read at a look, see lightning_cam/timeline/blocks.py, and the looks that have it.

import { byName } from "./record.js";

/** @typedef {import("./record.js").QuantizedMaps} QuantizedMaps */
/** @typedef {import("./timeline.js").Timeline} Timeline */

/**
 * What blocks read at one look.
 * @typedef {object} BlockMaps
 * @property {string[]} names of the blocks in order, and last of the head
 * @property {number} images of how many of the first images there are maps
 * @property {Record<string, QuantizedMaps[]>} maps by method, one for each name
 * @property {string} why there are none, in words; empty if there are
 */

/**
 * What blocks read, from its record, see isBlocks.
 * @param {{ names: string[], methods: string[], images: number, shapes: [number, number][], why?: string }} head
 * @param {import("./record.js").ArrayReader} arrays
 * @returns {BlockMaps}
 * @throws {RangeError} its arrays are longer than the record
 */
export function decodeBlocks({ names, methods, images, shapes, why = "" }, arrays) {
  /** @type {BlockMaps["maps"]} */
  const maps = byName();
  for (const method of methods) {
    maps[method] = shapes.map(([rows, columns]) => ({ rows, columns, codes: arrays.int8(images * rows * columns), scales: arrays.float32(2 * images) }));
  }
  return { names, images, maps, why };
}

/**
 * The methods that tell what blocks read.
 * @param {Timeline} timeline
 * @returns {string[]}
 */
export function blockMethods(timeline) {
  return timeline.cached("block methods", () => [...new Set(timeline.looks.flatMap(({ blocks }) => Object.keys(blocks?.maps ?? {})))]);
}

/**
 * The method chosen, or the first that tells what blocks read; null where none does.
 * @param {Timeline} timeline
 * @param {string | null} method
 */
export function blockMethod(timeline, method) {
  const methods = blockMethods(timeline);
  return method !== null && methods.includes(method) ? method : (methods[0] ?? null);
}

/**
 * The looks that say what blocks read by a method: those of the newest one's blocks, not of another model's under the
 * same name.
 * @param {Timeline} timeline
 * @param {string | null} method
 * @returns {number[]} none where no look does
 */
export function looksWithBlocks(timeline, method) {
  return timeline.cached(`looks with blocks ${method}`, () => {
    const looks = timeline.looks.flatMap(({ blocks }, t) => (blocks && method !== null && blocks.maps[method] ? [t] : []));
    const nameOf = (/** @type {number} */ t) => JSON.stringify(timeline.looks[t].blocks?.names);
    return looks.filter((t) => nameOf(t) === nameOf(looks[looks.length - 1]));
  });
}

/**
 * The newest of these looks at or before another one, or else the first.
 * @param {number[]} looks
 * @param {number} lookIndex
 */
export const nearestBefore = (looks, lookIndex) => looks.filter((t) => t <= lookIndex).pop() ?? looks[0];

/**
 * The largest value of an image's maps of all blocks at all looks, of either sign if `signed`: one scale for all of
 * them. 0 where there is none.
 * @param {Timeline} timeline
 * @param {string} method
 * @param {number} imageIndex
 * @param {boolean} signed
 * @returns {number}
 */
export function blockScale(timeline, method, imageIndex, signed) {
  return timeline.cached(`block scale ${method} ${imageIndex} ${signed}`, () => {
    let largest = 0;
    for (const t of looksWithBlocks(timeline, method)) {
      for (const { scales } of timeline.looks[t].blocks?.maps[method] ?? []) {
        for (const value of scales.subarray(2 * imageIndex, 2 * imageIndex + (signed ? 2 : 1))) if (value > largest) largest = value;
      }
    }
    return largest;
  });
}

/**
 * Which part of what all blocks read for the class at a look one of them reads; NaN where nothing is read.
 * @param {BlockMaps} blocks
 * @param {string} method
 * @param {number} block
 * @param {number} imageIndex
 */
export function shareOf(blocks, method, block, imageIndex) {
  const sums = blocks.maps[method].map(({ rows, columns, codes, scales }) => {
    const own = codes.subarray(imageIndex * rows * columns, (imageIndex + 1) * rows * columns);
    return own.reduce((sum, code) => sum + Math.max(0, code), 0) * (scales[2 * imageIndex] || 0);
  });
  return sums[block] / sums.reduce((a, b) => a + b, 0);
}
