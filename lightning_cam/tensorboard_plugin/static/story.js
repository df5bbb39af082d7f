// What a training comes to, for the overview: how long it was, what became better, which images turned from wrong to right.

import { formatNumber } from "./text.js";
import { nanMean } from "./timeline.js";

/** @typedef {import("./timeline.js").Timeline} Timeline */

/** A number then and now. @typedef {{ title: string, first: number, last: number, share: boolean }} Change */

const MOST_CHANGES = 5;

/**
 * For each look whether each image is predicted right; null where that is not known.
 * @param {Timeline} timeline
 * @returns {(boolean | null)[][]} looks × images
 */
export function verdicts(timeline) {
  return timeline.cached("verdicts", () => {
    const { labels } = timeline.probe;
    return timeline.looks.map(({ topK, topClasses }) =>
      labels.map((label, i) => (label < 0 || !topK ? null : topClasses[i * topK] === label)),
    );
  });
}

/**
 * For each look the images whose prediction turned from right to wrong or back since the last look that tells.
 * @param {Timeline} timeline
 * @returns {Set<number>[]} indices of images, per look
 */
export function flips(timeline) {
  return timeline.cached("flips", () => {
    /** @type {(boolean | null)[]} */
    const before = Array.from({ length: timeline.count }, () => null);
    return verdicts(timeline).map((row) => {
      /** @type {Set<number>} */
      const turned = new Set();
      row.forEach((verdict, i) => {
        if (verdict === null) return;
        if (before[i] !== null && verdict !== before[i]) turned.add(i);
        before[i] = verdict;
      });
      return turned;
    });
  });
}

/**
 * The share of the images predicted right, per look; NaN where it is not known.
 * @param {Timeline} timeline
 * @returns {number[]}
 */
export function accuracies(timeline) {
  return verdicts(timeline).map((row) => nanMean(row.filter((verdict) => verdict !== null).map(Number)));
}

/**
 * What changed from the first look that knows it to the newest: the accuracy on the probe images, then what the model
 * itself logged, its validation first.
 * @param {Timeline} timeline
 * @returns {Change[]}
 */
export function changes(timeline) {
  return timeline.cached("changes", () => {
    const prefix = `${timeline.probe.name}/`;
    const tags = new Set(timeline.looks.flatMap(({ metrics }) => Object.keys(metrics)));
    const own = [...tags].filter((tag) => !tag.startsWith(prefix)).sort((a, b) => metricRank(a) - metricRank(b));
    const found = own.map((tag) => changeOf(tag, timeline.looks.map(({ metrics }) => metrics[tag] ?? NaN), false));
    const probe = changeOf(`accuracy on ${timeline.count} probe images`, accuracies(timeline), true);
    return [probe, ...found].flatMap((change) => change ?? []).slice(0, MOST_CHANGES);
  });
}

/**
 * Which metrics come first: of the validation, and of these how often the model is right.
 * @param {string} tag
 */
export function metricRank(tag) {
  return (/val/i.test(tag) ? 0 : 2) + (/acc|f1|auroc|iou|map/i.test(tag) ? 0 : 1);
}

/**
 * @param {string} title
 * @param {number[]} values one per look
 * @param {boolean} share whether it is said in percent
 * @returns {Change | null}
 */
function changeOf(title, values, share) {
  const known = values.filter(Number.isFinite);
  return known.length ? { title, first: known[0], last: known[known.length - 1], share } : null;
}

/**
 * Split looks into as many columns as there is room for. Of each column the first and the last look.
 * @param {number} count
 * @param {number} most
 * @returns {[from: number, to: number][]}
 */
export function columnsOf(count, most) {
  const columns = Math.min(count, Math.max(1, most));
  const start = (/** @type {number} */ n) => Math.floor((n * count) / columns);
  return Array.from({ length: columns }, (_, n) => [start(n), start(n + 1) - 1]);
}

/**
 * The look that stands for a column: the last one at which the image turned, else the newest, in the first column the
 * very first.
 * @param {[from: number, to: number]} column
 * @param {(lookIndex: number) => boolean} turned
 */
export function lookOfColumn([from, to], turned) {
  for (let t = to; t >= from; t--) if (turned(t)) return t;
  return from === 0 ? 0 : to;
}

/**
 * The classes whose mean map differs most from that of all, in the order of that.
 * @param {import("./foundmaps.js").FoundMaps} means
 * @param {number} most
 */
export function standingOut(means, most) {
  const maps = means.keys.map((label) => /** @type {Float32Array} */ (means.get(label)));
  const whole = maps[0]?.map((_, k) => maps.reduce((sum, map) => sum + map[k], 0) / maps.length);
  const distances = maps.map((map) => map.reduce((most, value, k) => Math.max(most, Math.abs(value - whole[k])), 0));
  const order = [...maps.keys()].sort((a, b) => distances[b] - distances[a]);
  return order.slice(0, most).map((n) => means.keys[n]);
}

/**
 * A length of time in words.
 * @param {number} seconds
 */
export function formatDuration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.round(hours / 24)} days`;
}

/**
 * Whether epochs have several looks.
 * @param {Timeline} timeline
 * @returns {boolean}
 */
export function epochsRepeat(timeline) {
  return timeline.cached("epochs repeat", () => new Set(timeline.looks.map(({ epoch }) => epoch)).size < timeline.looks.length);
}

/**
 * The epoch of a look; its step where epochs have several looks.
 * @param {Timeline} timeline
 * @param {number} lookIndex
 */
export function headingOf(timeline, lookIndex) {
  const { step, epoch } = timeline.looks[lookIndex];
  if (epochsRepeat(timeline)) return formatNumber(step);
  return epoch < 0 ? "before" : String(epoch);
}
