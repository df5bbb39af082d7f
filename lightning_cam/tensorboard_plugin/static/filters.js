// Which images are shown, and in which order.

import { dequantize, largestValue } from "./record.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */

/**
 * How many images "changed most" and "methods disagree" are.
 * @param {Timeline | undefined} timeline
 */
export function quarterCount(timeline) {
  return Math.ceil((timeline?.count ?? 0) / 4);
}

/**
 * Indices of the images of a record that pass the filters, in the chosen order. They are sorted by what was so at the
 * step at which that was asked for: while the slider moves, tiles stay where they are.
 * @param {State} state
 * @param {Timeline} timeline
 */
export function chosenImages(state, timeline) {
  const lookIndex = timeline.lookAt(state.step ?? -Infinity);
  let images = Array.from({ length: timeline.count }, (_, i) => i);
  if (state.label !== null) images = images.filter((i) => timeline.probe.labels[i] === state.label);
  if (state.predicted !== null) images = images.filter((i) => timeline.prediction(lookIndex, i).predicted === state.predicted);
  const passes = PASSES[state.show](state, timeline, lookIndex);
  const key = SORT_KEYS[state.sort](state, timeline, timeline.lookAt(state.sortStep ?? state.step ?? -Infinity));
  return images
    .filter(passes)
    .map((i) => [key(i), i])
    .sort((a, b) => a[0] - b[0] || a[1] - b[1])
    .map(([, i]) => i);
}

/** @type {(hash: string) => boolean} set by the page, which keeps the pins */
let isPinned = () => false;

/** @param {(hash: string) => boolean} ask */
export function knowPins(ask) {
  isPinned = ask;
}

/** @type {Record<State["show"], (state: State, timeline: Timeline, lookIndex: number) => (image: number) => boolean>} */
const PASSES = {
  all: () => () => true,
  right: (_, timeline, lookIndex) => (i) => timeline.prediction(lookIndex, i).correct === true,
  wrong: (_, timeline, lookIndex) => (i) => timeline.prediction(lookIndex, i).correct === false,
  changed: ({ method }, timeline) => largestQuarter(timeline, method === null ? new Float32Array(timeline.count) : timeline.drift(method)),
  pinned: (_, timeline) => (i) => isPinned(timeline.probe.hashes[i]),
  missing: ({ method }, timeline, lookIndex) => {
    const maps = timeline.looks[lookIndex].maps[method ?? ""];
    return (i) => !maps || !largestValue(maps, i, false);
  },
  disagree: ({ method }, timeline, lookIndex) => {
    const agreement = method === null ? [] : agreements(timeline, lookIndex, method);
    return largestQuarter(timeline, agreement.map((value) => 1 - value));
  },
};

/** @type {Record<State["sort"], (state: State, timeline: Timeline, lookIndex: number) => (image: number) => number>} */
const SORT_KEYS = {
  index: () => () => 0,
  drift: ({ method }, timeline) => {
    const drift = method === null ? new Float32Array(timeline.count) : timeline.drift(method);
    return (i) => -drift[i];
  },
  probability: (_, timeline, lookIndex) => (i) => {
    const { labelProbability, probability } = timeline.prediction(lookIndex, i);
    return labelProbability ?? probability ?? 0;
  },
  evidence: ({ method }, timeline, lookIndex) => {
    const maps = timeline.looks[lookIndex].maps[method ?? ""];
    return (i) => (maps ? -largestValue(maps, i, false) : 0);
  },
};

/**
 * @param {Timeline} timeline
 * @param {ArrayLike<number>} values one per image
 * @returns {(image: number) => boolean} whether an image is in the quarter with the largest values
 */
function largestQuarter(timeline, values) {
  const order = Array.from(values, (_, i) => i).sort((a, b) => values[b] - values[a]);
  const most = new Set(order.slice(0, quarterCount(timeline)));
  return (i) => most.has(i);
}

/**
 * How much of a method's evidence lies at the same places by the other methods, the mean of these, per image: shares of
 * the evidence, the smaller one of each cell, as shared_evidence in lightning_cam/metrics. 0 where one shows nothing.
 * Methods on another grid are left out; with no other, images agree with themselves.
 * @param {Timeline} timeline
 * @param {number} lookIndex
 * @param {string} method
 * @returns {number[]}
 */
export function agreements(timeline, lookIndex, method) {
  const { maps } = timeline.looks[lookIndex];
  const own = maps[method];
  const others = Object.keys(maps).filter((other) => other !== method && !maps[other].isColor && !own?.isColor && maps[other].rows === own?.rows && maps[other].columns === own?.columns && maps[other].planes === own?.planes);
  return Array.from({ length: timeline.count }, (_, i) => {
    if (!others.length) return 1;
    const mine = shares(dequantize(own, i));
    const shared = others.map((other) => shares(dequantize(maps[other], i)).reduce((sum, share, k) => sum + Math.min(share, mine[k]), 0));
    return shared.reduce((sum, value) => sum + value, 0) / shared.length;
  });
}

/** @param {Float32Array} values */
function shares(values) {
  const positive = values.map((value) => (value > 0 ? value : 0));
  const sum = positive.reduce((total, value) => total + value, 0);
  return sum > 0 ? positive.map((value) => value / sum) : positive.fill(0);
}

/**
 * Which class is taken for which at a look, and how often, the most frequent first.
 * @param {Timeline} timeline
 * @param {number} lookIndex
 * @returns {{ label: number, predicted: number, count: number }[]}
 */
export function confusions(timeline, lookIndex) {
  /** @type {Map<string, { label: number, predicted: number, count: number }>} */
  const pairs = new Map();
  for (let i = 0; i < timeline.count; i++) {
    const { label, predicted, correct } = timeline.prediction(lookIndex, i);
    if (correct !== false || predicted === null) continue;
    const pair = pairs.get(`${label} ${predicted}`) ?? { label, predicted, count: 0 };
    pair.count++;
    pairs.set(`${label} ${predicted}`, pair);
  }
  return [...pairs.values()].sort((a, b) => b.count - a.count || a.label - b.label || a.predicted - b.predicted);
}
