// What each block of a model reads of one image, over the looks that this was kept of, as tiles in rows and columns.

import { blockMethod, looksWithBlocks, nearestBefore, shareOf } from "./blockmaps.js";
import { currentLook, thinned, tileOf } from "./columns.js";
import { formatEpoch, formatPercent, readable } from "./text.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */
/** @typedef {import("./views.js").Tile} Tile */

/**
 * Names of blocks, and last of the head, without what all blocks begin with, but for the word before a number; where one is
 * longer than there is room for, its words by their first letters.
 * @param {string[]} names
 * @param {number} most letters
 */
export function blockNames(names, most) {
  const blocks = names.slice(0, -1).map((name) => readable(name).split("."));
  let common = 0;
  while (blocks.length > 1 && blocks.every((parts) => parts.length > common + 1 && parts[common] === blocks[0][common])) common++;
  if (common && blocks.some((parts) => /^\d/.test(parts[common]))) common--;
  const short = [...blocks.map((parts) => parts.slice(common).join(".")), ...names.slice(-1)];
  return short.map((name) => (name.length > most ? name.replace(/[a-z_]+/gi, (word) => word[0]) : name));
}

/** @typedef {{ method: string, names: string[], looks: number[], imageIndex: number, tiles: Tile[] }} DepthContent tiles row by row */

/**
 * What there is to show; null where no look says what blocks read.
 * @param {State} state
 * @param {Timeline} timeline
 * @param {number} [most] looks, evenly spread
 * @returns {DepthContent | null}
 */
export function depthContent(state, timeline, most = Infinity) {
  const method = blockMethod(timeline, state.method);
  const all = looksWithBlocks(timeline, method);
  if (method === null || !all.length) return null;
  const now = nearestBefore(all, currentLook(state, timeline));
  const looks = thinned(all.length, all.indexOf(now), most).map((n) => all[n]);
  const names = (timeline.looks[all[0]].blocks?.names ?? []).map((name) => readable(name));
  const imageIndex = Math.min(state.image, timeline.count - 1);
  const tiles = names.flatMap((_, block) => looks.map((t) => tileOf(timeline, t, imageIndex, method, { caption: "block", block, current: t === now })));
  return { method, names, looks, imageIndex, tiles };
}

/**
 * What blocks read of an image, as rows of tiles: to save it.
 * @param {State} state
 * @param {Timeline} timeline
 */
export function depthColumns(state, timeline) {
  const content = depthContent(state, timeline);
  const headings = content && content.looks.map((t) => ({ title: formatEpoch(timeline.looks[t].epoch), step: timeline.looks[t].step }));
  return { headings, tiles: content?.tiles ?? [], note: "" };
}

/**
 * The two lines that a tile of a block has.
 * @param {Tile} tile
 */
export function blockLines({ timeline, lookIndex, imageIndex, method, block = 0 }) {
  const { blocks } = timeline.looks[lookIndex];
  if (!blocks || method === null || imageIndex >= blocks.images) return ["", ""];
  const share = shareOf(blocks, method, block, imageIndex);
  return [readable(blocks.names[block]), share > 0 ? `${formatPercent(share)} of all that is read` : "reads nothing"];
}
