// The numbers over the steps, as series for the charts: what the page knows of the predictions and the maps, then the
// logged metrics.

import { lineStyle } from "./colors.js";
import { nanMean } from "./timeline.js";

/** @typedef {import("./timeline.js").Timeline} Timeline */

/** @typedef {[step: number, value: number]} Point */

/**
 * One line of a chart.
 * @typedef {object} Series
 * @property {string} name the method, or the run where several are compared
 * @property {string} fullName
 * @property {Point[]} points in order of their steps, at least one
 * @property {string} color
 * @property {string} dash see LineStyle in colors.js
 */

/** @typedef {{ title: string, series: Series[] }} Chart */

const CONTROL = "random"; // what maps of chance score, for comparison
const CONTROL_STYLE = { color: "#8a8f98", dash: "none" };

/**
 * The charts of the records shown together, of the methods shown.
 * @param {Timeline[]} timelines
 * @param {string[]} methods
 * @returns {Chart[]}
 */
export function collectCharts(timelines, methods) {
  /** @type {Map<string, Series[]>} */
  const charts = new Map();
  const redundant = redundantMetrics(timelines);
  const severalRuns = timelines.length > 1;
  timelines.forEach((timeline, run) => {
    for (const { title, method, block = null, values } of [
      ...predictionCurves(timeline),
      ...blockCurves(timeline, severalRuns),
      ...metricCurves(timeline, methods, redundant, run === 0),
      ...driftCurves(timeline, methods),
    ]) {
      const points = pointsOf(timeline, values);
      if (!points.length) continue;
      const control = isControl(method, timeline);
      const ofRun = severalRuns && !control;
      const number = ofRun ? run : (block ?? Math.max(0, methods.indexOf(method ?? "")));
      const style = control ? CONTROL_STYLE : lineStyle(number);
      const what = block === null ? (method ?? "") : `block ${block}`;
      const name = ofRun ? timeline.label : what;
      const fullName = ofRun ? timeline.fullName : what;
      const lines = charts.get(title) ?? [];
      lines.push({ name, fullName, points, ...style });
      charts.set(title, lines);
    }
  });
  return [...charts].map(([title, series]) => ({ title, series }));
}

/**
 * One value per look.
 * @typedef {{ title: string, method: string | null, block?: number, values: number[] }} Curve
 */

/**
 * What the page itself knows of the predictions.
 * @param {Timeline} timeline
 * @returns {Curve[]}
 */
function predictionCurves(timeline) {
  const { labels } = timeline.probe;
  const accuracy = timeline.looks.map(({ topK, topClasses }) =>
    topK ? nanMean(labels.map((label, i) => (label < 0 ? NaN : Number(topClasses[i * topK] === label)))) : NaN,
  );
  const probability = timeline.looks.map(({ topK, labelProbabilities }) =>
    topK ? nanMean(labels.map((label, i) => (label < 0 ? NaN : labelProbabilities[i]))) : NaN,
  );
  return [
    { title: "probe accuracy", method: null, values: accuracy },
    { title: "label probability", method: null, values: probability },
  ];
}

/**
 * What the blocks of the model do: the first, the middle and the last one, of several runs the last.
 * @param {Timeline} timeline
 * @param {boolean} severalRuns
 * @returns {Curve[]}
 */
function blockCurves(timeline, severalRuns) {
  /** @type {Map<string, string[]>} */
  const byTitle = new Map();
  for (const tag of tagsOf(timeline)) {
    const title = blockMetric(tag, timeline);
    if (title) byTitle.set(title, [...(byTitle.get(title) ?? []), tag]);
  }
  return [...byTitle].flatMap(([title, tags]) => {
    tags.sort();
    const last = tags.length - 1;
    const blocks = severalRuns ? [last] : [...new Set([0, last >> 1, last])];
    return blocks.map((block) => ({
      title: severalRuns ? `${title}, last block` : title,
      method: null,
      block,
      values: timeline.looks.map(({ metrics }) => metrics[tags[block]] ?? NaN),
    }));
  });
}

/**
 * The tags of all metrics, at any look.
 * @param {Timeline} timeline
 */
function tagsOf(timeline) {
  /** @type {Set<string>} */
  const tags = new Set();
  for (const { metrics } of timeline.looks) for (const tag in metrics) tags.add(tag);
  return tags;
}

/**
 * The name of a metric of one block: "cam/model/attention_entropy/03" of the callback "cam" is "attention entropy".
 * @param {string} tag
 * @param {Timeline} timeline
 */
function blockMetric(tag, timeline) {
  const prefix = `${timeline.probe.name}/model/`;
  const found = tag.startsWith(prefix) && /^(\w+)\/\d+$/.exec(tag.slice(prefix.length));
  return found ? found[1].replaceAll("_", " ") : null;
}

/**
 * The logged metrics: the model's own, then those of the methods shown in the order of these.
 * @param {Timeline} timeline
 * @param {string[]} methods
 * @param {string[]} redundant
 * @param {boolean} withControl chance is the same for all runs: one of them shows it
 * @returns {Curve[]}
 */
function metricCurves(timeline, methods, redundant, withControl) {
  const rank = (/** @type {string | null} */ method) => {
    if (method === null) return -1;
    return isControl(method, timeline) ? methods.length : methods.indexOf(method); // last: what it is compared with first
  };
  const isShown = (/** @type {string | null} */ method) =>
    method === null || methods.includes(method) || (withControl && isControl(method, timeline));
  return [...tagsOf(timeline)]
    .map((tag) => ({ tag, ...splitTag(tag, timeline) }))
    .filter(({ tag, title, method, ofCallback }) => {
      return isShown(method) && !(ofCallback && redundant.includes(title)) && !blockMetric(tag, timeline);
    })
    .sort((a, b) => rank(a.method) - rank(b.method))
    .map(({ tag, title, method }) => ({ title, method, values: timeline.looks.map(({ metrics }) => metrics[tag] ?? NaN) }));
}

/**
 * How much the maps change from look to look.
 * @param {Timeline} timeline
 * @param {string[]} methods
 * @returns {Curve[]}
 */
function driftCurves(timeline, methods) {
  return methods.map((method) => ({
    title: "drift since the last look",
    method,
    values: timeline.driftSeries(method).map(nanMean),
  }));
}

/**
 * @param {Timeline} timeline
 * @param {number[]} values one per look
 */
function pointsOf(timeline, values) {
  /** @type {Point[]} */
  const points = timeline.looks.map(({ step }, t) => [step, values[t]]);
  return points.filter(([, value]) => Number.isFinite(value));
}

/**
 * The callback's metrics that repeat what the page computes itself.
 * @param {Timeline[]} timelines
 */
function redundantMetrics(timelines) {
  const drift = "similarity_to_previous"; // is 1 minus it
  return timelines.every(explainsLabels) ? [drift, "target_probability"] : [drift];
}

/**
 * Whether all maps explain the labels.
 * @param {Timeline} timeline
 */
function explainsLabels(timeline) {
  return timeline.looks.every((_, t) => timeline.probe.labels.every((label, i) => label === timeline.explainedClass(t, i)));
}

/**
 * @param {string | null} method
 * @param {Timeline} timeline
 */
function isControl(method, timeline) {
  return method === CONTROL && !timeline.methods.includes(method);
}

/**
 * A tag without the callback's name and the method: "cam/gradcam/entropy" of the callback "cam" is "entropy" of
 * "gradcam", a metric `ofCallback`.
 * @param {string} tag
 * @param {Timeline} timeline
 */
function splitTag(tag, timeline) {
  const parts = tag.split("/");
  const ofCallback = parts.length > 1 && parts[0] === timeline.probe.name;
  if (ofCallback) parts.shift();
  const at = ofCallback && parts[0] === CONTROL ? 0 : parts.findIndex((part) => timeline.methods.includes(part));
  const method = at < 0 ? null : parts.splice(at, 1)[0];
  return { title: parts.join("/") || tag, method, ofCallback };
}

/**
 * How many points stand at or before `step`.
 * @param {Point[]} points
 * @param {number} step
 */
function countUntil(points, step) {
  let low = 0;
  let high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= step) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * The newest value at or before `step`; NaN before the first one.
 * @param {Point[]} points
 * @param {number} step
 */
export function valueAt(points, step) {
  return points[countUntil(points, step) - 1]?.[1] ?? NaN;
}

/**
 * The value at `step` of the line through the points.
 * @param {Point[]} points
 * @param {number} step
 */
export function interpolatedAt(points, step) {
  const after = countUntil(points, step);
  if (after === 0) return points[0][1];
  if (after === points.length) return points[points.length - 1][1];
  const [from, start] = points[after - 1];
  const [to, end] = points[after];
  return start + ((end - start) * (step - from)) / (to - from);
}

/**
 * The smallest and the largest value. Spread into Math.min(), a long series is more arguments than a call can have.
 * @param {Series[]} series
 */
export function rangeOf(series) {
  let low = Infinity;
  let high = -Infinity;
  for (const { points } of series) {
    for (const [, value] of points) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return { low, high };
}

/**
 * The points that are seen where only `columns` can be told apart: of each column the first, the last, the lowest and
 * the highest.
 * @param {Point[]} points
 * @param {number} columns
 * @returns {Point[]}
 */
export function thinnedPoints(points, columns) {
  if (points.length <= 4 * columns) return points;
  const first = points[0][0];
  const width = (points[points.length - 1][0] - first) / columns;
  const columnOf = (/** @type {number} */ n) => Math.floor((points[n][0] - first) / width);
  /** @type {Point[]} */
  const kept = [];
  for (let from = 0; from < points.length; ) {
    let lowest = from;
    let highest = from;
    let to = from;
    for (; to < points.length && columnOf(to) === columnOf(from); to++) {
      if (points[to][1] < points[lowest][1]) lowest = to;
      if (points[to][1] > points[highest][1]) highest = to;
    }
    const seen = new Set([from, Math.min(lowest, highest), Math.max(lowest, highest), to - 1]);
    for (const n of seen) kept.push(points[n]);
    from = to;
  }
  return kept;
}
