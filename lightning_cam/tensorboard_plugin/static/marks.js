// The steps of a training at which something happened: the slider marks them, and `n` and `p` go from one to the next.

import { newestFound } from "./findings.js";
import { accuracies, flips, metricRank } from "./story.js";
import { nanMean } from "./timeline.js";
import { formatNumber, readable } from "./text.js";
import { betterSign } from "./words.js";

/** @typedef {import("./timeline.js").Timeline} Timeline */

/**
 * @typedef {object} Mark
 * @property {number} step
 * @property {"turn" | "change" | "best" | "found"} kind
 * @property {string} text
 */

/**
 * The marks of a run, in order of their steps.
 * @param {Timeline} timeline
 * @param {string | null} method whose maps change
 * @param {number | null} imageIndex the image whose turns count; null: looks at which many images turn
 * @returns {Mark[]}
 */
export function marksOf(timeline, method, imageIndex) {
  return timeline.cached(`marks ${method} ${imageIndex}`, () =>
    [...findings(timeline), ...greatestChange(timeline, method), ...best(timeline), ...turns(timeline, imageIndex)].sort((a, b) => a.step - b.step),
  );
}

/**
 * Where one image turned; of all images the looks at which at least half as many turned as at any look.
 * @param {Timeline} timeline
 * @param {number | null} imageIndex
 * @returns {Mark[]}
 */
function turns(timeline, imageIndex) {
  const turned = flips(timeline);
  if (imageIndex !== null) {
    return timeline.looks.flatMap(({ step }, t) => {
      if (!turned[t].has(imageIndex)) return [];
      return [{ step, kind: /** @type {const} */ ("turn"), text: `became ${timeline.prediction(t, imageIndex).correct ? "right" : "wrong"}` }];
    });
  }
  const most = turned.reduce((count, { size }) => Math.max(count, size), 0);
  return timeline.looks.flatMap(({ step }, t) => {
    const { size } = turned[t];
    if (!size || 2 * size < most) return [];
    return [{ step, kind: /** @type {const} */ ("turn"), text: `${size === 1 ? "1 prediction" : `${size} predictions`} flipped between right and wrong` }];
  });
}

/**
 * Where the maps changed most since the look before.
 * @param {Timeline} timeline
 * @param {string | null} method
 * @returns {Mark[]}
 */
function greatestChange(timeline, method) {
  const drifts = method === null ? [] : timeline.driftSeries(method).map(nanMean);
  const at = indexOfBest(drifts, 1);
  return at < 0 || !drifts[at] ? [] : [{ step: timeline.looks[at].step, kind: "change", text: "the maps changed most" }];
}

/**
 * Where what the model logged of its validation was best, the accuracy on the probe images if it logged nothing.
 * @param {Timeline} timeline
 * @returns {Mark[]}
 */
function best(timeline) {
  const prefix = `${timeline.probe.name}/`;
  const tags = new Set(timeline.looks.flatMap(({ metrics }) => Object.keys(metrics)));
  const judged = [...tags].filter((tag) => !tag.startsWith(prefix) && /val/i.test(tag) && betterSign(tag));
  const [tag] = judged.sort((a, b) => metricRank(a) - metricRank(b));
  const values = tag === undefined ? accuracies(timeline) : timeline.looks.map(({ metrics }) => metrics[tag] ?? NaN);
  const at = indexOfBest(values, tag !== undefined && betterSign(tag) < 0 ? -1 : 1);
  if (at < 0) return [];
  return [{ step: timeline.looks[at].step, kind: "best", text: `best ${tag === undefined ? "probe accuracy" : readable(tag)}: ${formatNumber(values[at])}` }];
}

/**
 * The steps since which what was found holds.
 * @param {Timeline} timeline
 * @returns {Mark[]}
 */
function findings(timeline) {
  const found = newestFound(timeline, Infinity)?.findings ?? [];
  return found.flatMap(({ since, text }) => (since === null ? [] : [{ step: since, kind: /** @type {const} */ ("found"), text: readable(text) }]));
}

/**
 * The first place of the largest of the finite values, with `sign` -1 of the smallest; -1 where there is none.
 * @param {number[]} values
 * @param {1 | -1} sign
 */
function indexOfBest(values, sign) {
  let at = -1;
  values.forEach((value, n) => {
    if (Number.isFinite(value) && (at < 0 || sign * value > sign * values[at])) at = n;
  });
  return at;
}
