// Which tiles each view shows, and in which order.

import { currentLook, methodColumns, pairColumns, runColumns, thinned, tileOf } from "./columns.js";
import { depthColumns } from "./depth.js";
import { planesOverLooks } from "./planes.js";
import { chosenImages } from "./filters.js";

/** @typedef {import("./source.js").Entry} Entry */
/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */

/** @typedef {"overview" | "grid" | "film" | "depth" | "diff" | "runs" | "methods" | "pair"} View */

/** @type {Record<View, string>} */
export const VIEWS = {
  overview: "Overview",
  grid: "Grid",
  film: "Filmstrip",
  depth: "Depth",
  diff: "Difference",
  runs: "Compare runs",
  methods: "Compare methods",
  pair: "A and B",
};

/**
 * What there is to show.
 * @typedef {object} Content
 * @property {State} state
 * @property {Entry[]} listed the records in the order in which they are listed
 * @property {Map<string, Timeline>} timelines the records by id
 */

/**
 * One image at one look.
 * @typedef {object} Tile
 * @property {Timeline} timeline
 * @property {number} lookIndex
 * @property {number} imageIndex
 * @property {string | null} method whose map is shown; null: the image alone
 * @property {number | null} referenceIndex index of the look that the map is compared with
 * @property {"class" | "label" | "step" | "block"} caption the first line: the label and below it what was predicted, the label alone, the step, the block
 * @property {number} [block] the map is what this block reads, the number of a row of them; left out for the whole depth
 * @property {number[]} [planes] which slices, frames or instances it shows unless one is chosen; left out for those that lead
 * @property {Tile} [over] lies over it, from `swipeAt` on
 * @property {boolean} [current] whether it is to be marked as the current look
 */

/**
 * The head of a column.
 * @typedef {{ title: string, fullName?: string, step?: number }} Heading
 */

/**
 * @typedef {object} Arrangement
 * @property {Timeline[]} timelines those shown together
 * @property {Heading[] | null} headings null: tiles flow, without columns
 * @property {(Tile | null)[]} tiles null is an empty place
 * @property {string} note
 */

export const MAX_RUNS = 40; // side by side; so many lines of a chart can be told apart
const MAX_FILMSTRIP = 60; // looks in a filmstrip; more are thinned out evenly

/**
 * The records that the view shows together.
 * @param {Content} content
 * @returns {Timeline[]}
 */
export function shownTimelines(content) {
  const { state, timelines } = content;
  const alone = state.view === "pair" && state.otherRun && timelines.has(state.otherRun) ? [state.timeline ?? "", state.otherRun] : [state.timeline ?? ""];
  const ids = state.view === "runs" ? comparedRuns(content).slice(0, MAX_RUNS) : [...new Set(alone)];
  return ids.flatMap((id) => timelines.get(id) ?? []).filter(({ count, looks }) => count && looks.length);
}

/**
 * Ids of the runs to compare, as they are listed: of those with a look the ones chosen, or the newest four.
 * @param {Pick<Content, "state" | "listed">} content
 */
export function comparedRuns({ state, listed }) {
  const comparable = listed.filter(({ empty }) => !empty);
  const newest = [...comparable].sort((a, b) => b.modified - a.modified).slice(0, 4).map(({ id }) => id);
  const chosen = new Set(state.runs ?? newest);
  return comparable.map(({ id }) => id).filter((id) => chosen.has(id));
}

/** @type {{ key: string, steps: number[] }} of the records shown last: redrawing asks for them at each step of the slider */
let stepsOfSeveral = { key: "", steps: [] };

/**
 * All steps at which one of the records has a look.
 * @param {Timeline[]} timelines
 */
export function allSteps(timelines) {
  if (timelines.length === 1) return timelines[0].steps;
  const key = JSON.stringify(timelines.map(({ id, uid, revision }) => [id, uid, revision]));
  if (stepsOfSeveral.key !== key) {
    /** @type {Set<number>} */
    const all = new Set();
    for (const { steps } of timelines) for (const step of steps) all.add(step);
    stepsOfSeveral = { key, steps: [...all].sort((a, b) => a - b) };
  }
  return stepsOfSeveral.steps;
}

/**
 * The steps that the slider goes over: those of all records, of A alone where B follows it, of the first run where the
 * others follow its epochs.
 * @param {State} state
 * @param {Timeline[]} timelines
 */
export function slideSteps(state, timelines) {
  const ofFirst = state.view === "pair" || (state.view === "runs" && state.align === "epoch");
  return ofFirst ? (timelines[0]?.steps ?? []) : allSteps(timelines);
}

/**
 * How many of the steps, which are in order, are at or before `step`.
 * @param {number[]} steps
 * @param {number} step
 */
export function countUntil(steps, step) {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * The tiles of the current view.
 * @param {Content} content
 * @returns {Arrangement}
 */
export function arrange(content) {
  const { state } = content;
  const timelines = shownTimelines(content);
  if (!timelines.length || state.view === "overview") return { timelines, headings: null, tiles: [], note: "" };
  if (state.view === "film") return { timelines, headings: null, ...filmstrip(state, timelines[0]) };
  if (state.view === "depth") return { timelines, ...depthColumns(state, timelines[0]) };
  const images = chosenImages(state, timelines[0]);
  const note = images.length ? "" : "No image matches the filters.";
  if (state.view === "runs") {
    const ticked = comparedRuns(content).length;
    const cut = ticked > MAX_RUNS ? `Showing the first ${MAX_RUNS} of ${ticked} selected runs.` : "";
    return { timelines, ...runColumns(state, timelines, images), note: note || cut };
  }
  if (state.view === "pair") return { timelines, ...pairColumns(content, timelines, images), note };
  if (state.view === "methods") return { timelines, ...methodColumns(state, timelines[0], images), note };
  return { timelines, headings: null, tiles: plainGrid(state, timelines[0], images), note };
}

/**
 * One image at all looks.
 * @param {State} state
 * @param {Timeline} timeline
 */
function filmstrip(state, timeline) {
  const current = currentLook(state, timeline);
  const imageIndex = Math.min(state.image, timeline.count - 1);
  const total = timeline.looks.length;
  const shown = thinned(total, current, MAX_FILMSTRIP);
  const planes = planesOverLooks(timeline, imageIndex, state.method);
  /** @type {Tile[]} */
  const tiles = shown.map((t) => tileOf(timeline, t, imageIndex, state.method, { caption: "step", current: t === current, planes }));
  const thin = shown.length < total ? [`${shown.length} of ${total} looks, evenly spaced`] : [];
  return { tiles, note: [...thin, ...sameOverLooks(state, timeline)].join(". ") };
}

/**
 * What looks side by side show of images with planes, so that they compare.
 * @param {State} state
 * @param {Timeline} timeline
 */
function sameOverLooks({ plane }, { probe: { planes } }) {
  if (!planes || plane !== null) return [];
  return { slice: ["All show the slice with most evidence at the newest look"], frame: [], instance: ["All show the instances in the order of the newest look"] }[planes.kind];
}

/**
 * All images at one look; in the view "diff" compared with another one.
 * @param {State} state
 * @param {Timeline} timeline
 * @param {number[]} images
 */
function plainGrid(state, timeline, images) {
  const now = currentLook(state, timeline);
  const referenceIndex = state.view === "diff" ? timeline.lookAt(state.reference ?? -Infinity) : null;
  return images.map((i) => tileOf(timeline, now, i, state.method, { referenceIndex }));
}
