// Tiles in columns, to compare: runs, methods, A and B. One row per image. And which looks have a place beside each other.

import { readable } from "./text.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */
/** @typedef {import("./views.js").Content} Content */
/** @typedef {import("./views.js").Heading} Heading */
/** @typedef {import("./views.js").Tile} Tile */

/**
 * Indices of looks: all, or an even spread that holds the first, the last and the current one.
 * @param {number} count
 * @param {number} current
 * @param {number} most
 */
export function thinned(count, current, most) {
  if (count <= most) return Array.from({ length: count }, (_, t) => t);
  const spread = Array.from({ length: most }, (_, k) => Math.round((k * (count - 1)) / (most - 1)));
  return [...new Set([...spread, current])].sort((a, b) => a - b);
}

/**
 * @param {Timeline} timeline
 * @param {number} lookIndex
 * @param {number} imageIndex
 * @param {string | null} method
 * @param {Partial<Tile>} [more]
 * @returns {Tile}
 */
export function tileOf(timeline, lookIndex, imageIndex, method, more = {}) {
  return { timeline, lookIndex, imageIndex, method, referenceIndex: null, caption: "class", ...more };
}

/**
 * The step shown; each record has its own look at it.
 * @param {State} state
 * @param {Timeline} timeline
 */
export function currentLook(state, timeline) {
  return timeline.lookAt(state.step ?? -Infinity);
}

/**
 * A record's look that goes with the one of the first record: at the step shown, or at its epoch.
 * @param {State} state
 * @param {Timeline} timeline
 * @param {Timeline} first
 * @param {boolean} byEpoch
 */
function lookBeside(state, timeline, first, byEpoch) {
  if (!byEpoch || timeline === first) return currentLook(state, timeline);
  const { epoch } = first.looks[currentLook(state, first)];
  let at = 0;
  timeline.looks.forEach((look, t) => (at = look.epoch <= epoch ? t : at));
  return at;
}

/**
 * One row per image: the image, A and B; with a swipe B lies over A.
 * @param {Content} content
 * @param {Timeline[]} timelines
 * @param {number[]} images of A
 */
export function pairColumns({ state }, [first, other = first], images) {
  const now = currentLook(state, first);
  const beside = state.otherStep === null ? lookBeside(state, other, first, true) : other.lookAt(state.otherStep);
  const method = state.otherMethod ?? state.method;
  const headOf = (/** @type {string} */ name, /** @type {Timeline} */ timeline, /** @type {number} */ t, /** @type {string | null} */ own) => ({
    title: `${name}: ${timeline.label} · ${readable(own ?? "")}`,
    fullName: `${name}: ${timeline.fullName} · ${readable(own ?? "")}`,
    step: timeline.looks[t].step,
  });
  const [a, b] = [headOf("A", first, now, state.method), headOf("B", other, beside, method)];
  const tilesOf = (/** @type {number} */ i) => {
    const same = other === first ? i : other.probe.hashes.indexOf(first.probe.hashes[i]);
    return [tileOf(first, now, i, state.method), same < 0 ? null : tileOf(other, beside, same, method)];
  };
  if (!state.swipe) {
    const tiles = images.flatMap((i) => [tileOf(first, now, i, null, { caption: "label" }), ...tilesOf(i)]);
    return { headings: [{ title: "image" }, a, b], tiles };
  }
  const tiles = images.map((i) => {
    const [under, over] = tilesOf(i);
    return under && { ...under, over: over ?? undefined };
  });
  return { headings: null, tiles };
}

/**
 * One row per image: the image, then its map in each run that has it in its probe batch as well.
 * @param {State} state
 * @param {Timeline[]} timelines
 * @param {number[]} images of the first of them
 */
export function runColumns(state, timelines, images) {
  const [first] = timelines;
  const now = currentLook(state, first);
  const lookOf = (/** @type {Timeline} */ timeline) => lookBeside(state, timeline, first, state.align === "epoch");
  /** @type {Heading[]} */
  const headings = [{ title: "image" }];
  for (const timeline of timelines) {
    const { step } = timeline.looks[lookOf(timeline)];
    headings.push({ title: timeline.label, fullName: timeline.fullName, step });
  }
  const tiles = images.flatMap((i) => [
    tileOf(first, now, i, null, { caption: "label" }),
    ...timelines.map((timeline) => {
      const same = timeline.probe.hashes.indexOf(first.probe.hashes[i]);
      return same < 0 ? null : tileOf(timeline, lookOf(timeline), same, state.method);
    }),
  ]);
  return { headings, tiles };
}

/**
 * One row per image: the image, then its map by each method.
 * @param {State} state
 * @param {Timeline} timeline
 * @param {number[]} images
 */
export function methodColumns(state, timeline, images) {
  const now = currentLook(state, timeline);
  const { methods } = timeline;
  const headings = [{ title: "image" }, ...methods.map((method) => ({ title: readable(method) }))];
  const tiles = images.flatMap((i) => [
    tileOf(timeline, now, i, null, { caption: "label" }),
    ...methods.map((method) => tileOf(timeline, now, i, method)),
  ]);
  return { headings, tiles };
}
