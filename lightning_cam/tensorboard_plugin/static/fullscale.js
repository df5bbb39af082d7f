// The value that gets the full color on a scale over time or common to all images, and the map that it is of.

import { largestValue } from "./record.js";

/** @typedef {import("./timeline.js").Timeline} Timeline */

/** The largest value of one map. @typedef {{ value: number, timeline: Timeline, lookIndex: number, imageIndex: number }} Peak */

const SHARE = 0.99; // of the maps are not brighter than the full color: one outlier would make all others dark
const FEW_LOOKS = 8; // with fewer, none is called an outlier

/** @type {WeakMap<Timeline[], string>} what tells records that are shown together from others */
const keys = new WeakMap();

/**
 * The 99th percentile of the largest values of all maps, of one image or of all; the largest of them where there are
 * fewer than eight looks. Null where no map has evidence.
 * @param {Timeline[]} timelines those shown together
 * @param {string} method
 * @param {boolean} signed
 * @param {string | null} hash of the image; null for all
 * @returns {Peak | null}
 */
export function fullScale(timelines, method, signed, hash) {
  if (!timelines.length) return null;
  const key = keys.get(timelines) ?? JSON.stringify(timelines.map(({ id, uid, revision }) => [id, uid, revision]));
  keys.set(timelines, key);
  return timelines[0].cached(`full ${key} ${signed} ${hash} ${method}`, () => percentile(timelines, method, signed, hash));
}

/**
 * @param {Timeline[]} timelines
 * @param {string} method
 * @param {boolean} signed
 * @param {string | null} hash
 * @returns {Peak | null}
 */
function percentile(timelines, method, signed, hash) {
  /** @type {Peak[]} */
  const peaks = [];
  let looks = 0;
  for (const timeline of timelines) {
    const own = hash === null ? [...timeline.probe.labels.keys()] : [timeline.probe.hashes.indexOf(hash)].filter((i) => i >= 0);
    timeline.looks.forEach(({ maps }, lookIndex) => {
      if (!maps[method]) return;
      looks++;
      for (const imageIndex of own) peaks.push({ value: largestValue(maps[method], imageIndex, signed), timeline, lookIndex, imageIndex });
    });
  }
  peaks.sort((a, b) => a.value - b.value);
  const largest = peaks[peaks.length - 1];
  const at = looks < FEW_LOOKS ? peaks.length - 1 : Math.floor(SHARE * (peaks.length - 1));
  const scale = peaks[at]?.value > 0 ? peaks[at] : largest;
  return scale?.value > 0 ? scale : null;
}
