// Slices of volumes, frames of videos, instances of bags: which of them a tile shows, and what is said of them.

import { formatPercent } from "./text.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */
/** @typedef {import("./views.js").Tile} Tile */

/**
 * What images consist of, in the JSON of the probe batch.
 * @typedef {object} Planes
 * @property {"slice" | "frame" | "instance"} kind
 * @property {number} count how many each image has
 * @property {number[]} numbers of those that there are pictures of, from 1 on, in order
 */

const MOST_AT_ONCE = 16; // that stand side by side in a tile
const FEW = 5; // that are ranked in words

/**
 * The plane of a map that belongs to one of the pictures: maps may have fewer planes.
 * @param {number} k of the picture
 * @param {number} pictures
 * @param {number} planes of the map
 */
export const planeOfMap = (k, pictures, planes) => Math.floor(((k + 0.5) * planes) / pictures);

/**
 * The share of each plane that there is a picture of in the evidence of an image; null where that is not known.
 * @param {Timeline} timeline
 * @param {number} lookIndex
 * @param {number} imageIndex
 * @param {string | null} method
 * @returns {number[] | null}
 */
export function sharesOf(timeline, lookIndex, imageIndex, method) {
  const { planes } = timeline.probe;
  const maps = timeline.looks[lookIndex].maps[method ?? ""];
  if (!planes || !maps?.evidence) return null;
  const { evidence, planes: ofMap = 1 } = maps;
  return planes.numbers.map((_, k) => evidence[imageIndex * ofMap + planeOfMap(k, planes.numbers.length, ofMap)]);
}

/**
 * The planes that stand for an image, in order: of a volume the slice with most evidence, or the middle one where there
 * is none; of a bag the instances by their evidence; of a video all frames, of many an even selection.
 * @param {Planes} planes
 * @param {number[] | null} shares
 * @returns {number[]}
 */
export function leadingPlanes({ kind, numbers }, shares) {
  const count = numbers.length;
  if (kind === "slice") return [bestOf(shares, count)];
  const all = [...numbers.keys()];
  if (kind === "instance") return (shares ? all.sort((a, b) => shares[b] - shares[a] || a - b) : all).slice(0, MOST_AT_ONCE);
  const most = Math.min(count, MOST_AT_ONCE);
  return Array.from({ length: most }, (_, n) => planeOfMap(n, most, count));
}

/**
 * @param {number[] | null} shares
 * @param {number} count
 */
function bestOf(shares, count) {
  const most = Math.max(0, ...(shares ?? []));
  return most && shares ? shares.indexOf(most) : count >> 1;
}

/**
 * The planes that a tile shows, in order; none where images have none.
 * @param {State} state
 * @param {Tile} tile
 * @returns {number[]}
 */
export function shownPlanes(state, { timeline, lookIndex, imageIndex, method, planes: given }) {
  const { planes } = timeline.probe;
  if (!planes) return [];
  if (state.plane !== null) return [nearestPlane(planes, state.plane)];
  return given ?? leadingPlanes(planes, sharesOf(timeline, lookIndex, imageIndex, method ?? state.method));
}

/**
 * What a row of tiles over the looks shows of an image, so that they compare: what leads at the newest look.
 * @param {Timeline} timeline
 * @param {number} imageIndex
 * @param {string | null} method
 * @returns {number[] | undefined} undefined where images have no planes
 */
export function planesOverLooks(timeline, imageIndex, method) {
  const { planes } = timeline.probe;
  return planes && leadingPlanes(planes, newestShares(timeline, imageIndex, method));
}

/**
 * The plane with most evidence at the newest look, where there is room for one alone.
 * @param {Timeline} timeline
 * @param {number} imageIndex
 * @param {string | null} method
 */
export function coverPlane(timeline, imageIndex, method) {
  return bestOf(newestShares(timeline, imageIndex, method), timeline.probe.planes?.numbers.length ?? 0);
}

/**
 * @param {Timeline} timeline
 * @param {number} imageIndex
 * @param {string | null} method
 */
const newestShares = (timeline, imageIndex, method) => (timeline.looks.length ? sharesOf(timeline, timeline.looks.length - 1, imageIndex, method) : null);

/**
 * The place of the plane with a number, or of the next one that there is a picture of.
 * @param {Planes} planes
 * @param {number} number
 */
export function nearestPlane({ numbers }, number) {
  const distances = numbers.map((own) => Math.abs(own - number));
  return distances.indexOf(Math.min(...distances));
}

/**
 * How many planes stand in a row, and how many rows there are: as many, so that tiles have the form of one plane.
 * @param {number[]} planes
 */
export const sideOf = (planes) => Math.ceil(Math.sqrt(planes.length));

/**
 * What is said of the planes that a tile shows: number and share of the only one, or of the first by evidence.
 * @param {State} state
 * @param {Tile} tile
 */
export function planeWords(state, tile) {
  const { planes } = tile.timeline.probe;
  const shown = shownPlanes(state, tile);
  if (!planes || (planes.kind === "frame" && shown.length > 1)) return "";
  return `${planes.kind} ${planeText(tile, shown[0], tile.method ?? state.method)}`;
}

/**
 * The number of a plane, and its share where there is evidence.
 * @param {Pick<Tile, "timeline" | "lookIndex" | "imageIndex">} tile
 * @param {number} k
 * @param {string | null} method
 */
export function planeText({ timeline, lookIndex, imageIndex }, k, method) {
  const shares = sharesOf(timeline, lookIndex, imageIndex, method);
  const share = shares?.some((value) => value > 0) ? ` · ${formatPercent(shares[k])}` : "";
  return `${timeline.probe.planes?.numbers[k]}${share}`;
}

/**
 * The planes of an image with most evidence, in words; empty where there is none.
 * @param {Tile} tile
 */
export function rankWords({ timeline, lookIndex, imageIndex, method }) {
  const { planes } = timeline.probe;
  const maps = timeline.looks[lookIndex].maps[method ?? ""];
  const shares = sharesOf(timeline, lookIndex, imageIndex, method);
  if (!planes || !maps?.evidence || !shares?.some((value) => value > 0)) return "";
  const ranked = [...shares.keys()].filter((k) => shares[k] > 0).sort((a, b) => shares[b] - shares[a] || a - b);
  const words = ranked.slice(0, FEW).map((k) => `${planes.numbers[k]} (${formatPercent(shares[k])})`);
  const { evidence, planes: ofMap = 1 } = maps;
  const kept = evidence.subarray(imageIndex * ofMap, (imageIndex + 1) * ofMap).reduce((a, b) => a + b, 0);
  const left = kept < 0.995 ? `, ${formatPercent(1 - kept)} in ${planes.kind}s that were not kept` : "";
  return `${planes.kind}s by evidence: ${words.join(", ")}${left}`;
}

/**
 * What is shown of all images, in words: a plane that was chosen, or what leads.
 * @param {State} state
 * @param {Planes} planes
 */
export function chosenWords({ plane }, planes) {
  if (plane !== null) return `${planes.kind} ${planes.numbers[nearestPlane(planes, plane)]} of ${planes.count}`;
  return { slice: "with most evidence", frame: "all, side by side", instance: "all, by evidence" }[planes.kind];
}

/**
 * Whether this is what images consist of.
 * @param {any} planes
 * @returns {planes is Planes}
 */
export function arePlanes(planes) {
  const { kind, count, numbers } = planes ?? {};
  const rise = Array.isArray(numbers) && numbers.length > 0 && numbers.every((number, n) => Number.isSafeInteger(number) && number > (n ? numbers[n - 1] : 0));
  return ["slice", "frame", "instance"].includes(kind) && Number.isSafeInteger(count) && count <= 2 ** 16 && rise && numbers[numbers.length - 1] <= count;
}
