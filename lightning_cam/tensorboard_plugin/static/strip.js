// One image by all methods, block by block, and at some of the looks: the small tiles of the dialog.

import { blockMethods, looksWithBlocks } from "./blockmaps.js";
import { thinned } from "./columns.js";
import { blockNames } from "./depth.js";
import { html, setText } from "./dom.js";
import { flips } from "./story.js";
import { rove } from "./roving.js";
import { drawTile } from "./tiles.js";
import { formatEpoch, formatNumber, readable } from "./text.js";

/** @typedef {import("./timeline.js").Timeline} Timeline */
/** @typedef {import("./views.js").Tile} Tile */

const SIDE = 112; // pixels of a small tile's canvas
const MOST_LOOKS = 12;
const LETTERS = 9; // of a block's name

/** A small tile. @typedef {{ button: HTMLButtonElement, canvas: HTMLCanvasElement, text: HTMLElement }} Small */

export class Strip {
  /**
   * @param {string} label
   * @param {(n: number) => void} onChoose
   */
  constructor(label, onChoose) {
    this.onChoose = onChoose;
    /** @type {Small[]} */
    this.smalls = [];
    this.element = html("div", { class: "strip", role: "group", "aria-label": label });
    this.keep = rove(this.element, "button");
  }

  /**
   * @param {import("./state.js").State} state
   * @param {Timeline[]} timelines
   * @param {{ tile: Tile, text: string, title?: string, chosen: boolean, turned?: "right" | "wrong" | "" }[]} entries
   * @param {import("./draw.js").DrawingStyle} style
   */
  show(state, timelines, entries, style) {
    while (this.smalls.length > entries.length) this.smalls.pop()?.button.remove();
    while (this.smalls.length < entries.length) this.smalls.push(this.#small(this.smalls.length));
    entries.forEach(({ tile, text, title = text, chosen, turned = "" }, n) => {
      const small = this.smalls[n];
      const height = Math.round(SIDE / tile.timeline.aspect);
      if (small.canvas.height !== height) small.canvas.height = height;
      drawTile(small.canvas, state, timelines, tile, style);
      setText(small.text, text);
      small.button.title = title;
      small.button.setAttribute("aria-pressed", String(chosen));
      small.button.dataset.turned = turned;
    });
    this.keep(this.smalls[entries.findIndex(({ chosen }) => chosen)]?.button);
  }

  /**
   * @param {number} n
   * @returns {Small}
   */
  #small(n) {
    const canvas = html("canvas", { width: SIDE, height: SIDE });
    const text = html("span");
    const button = html("button", { type: "button", tabindex: -1, onclick: () => this.onChoose(n) }, canvas, text);
    this.element.append(button);
    return { button, canvas, text };
  }
}

/**
 * One entry per method of the look.
 * @param {Tile} tile
 */
export function methodEntries(tile) {
  const methods = tile.block === undefined ? tile.timeline.methods : blockMethods(tile.timeline);
  return methods.map((method) => ({ tile: { ...tile, method }, text: readable(method), chosen: method === tile.method }));
}

/**
 * One entry per block of the look, behind that of the whole depth; none where it is not known what blocks read.
 * @param {Tile} tile
 */
export function blockEntries(tile) {
  const { timeline, lookIndex, imageIndex, method, block } = tile;
  const { blocks } = timeline.looks[lookIndex];
  if (!blocks || method === null || !blocks.maps[method] || imageIndex >= blocks.images) return [];
  const whole = { tile: { ...tile, block: undefined }, text: "whole depth", chosen: block === undefined };
  return [whole, ...blockNames(blocks.names, LETTERS).map((text, n) => ({ tile: { ...tile, block: n }, text, title: readable(blocks.names[n]), chosen: n === block }))];
}

/**
 * One entry per look, of many an even spread with the one that is shown.
 * @param {Tile} tile
 */
export function lookEntries(tile) {
  const { timeline, imageIndex, lookIndex } = tile;
  const turned = flips(timeline);
  const looks = tile.block === undefined ? [...timeline.looks.keys()] : looksWithBlocks(timeline, tile.method);
  return thinned(looks.length, looks.indexOf(lookIndex), MOST_LOOKS).map((n) => {
    const t = looks[n];
    const { step, epoch } = timeline.looks[t];
    const became = timeline.prediction(t, imageIndex).correct ? /** @type {const} */ ("right") : /** @type {const} */ ("wrong");
    return {
      tile: { ...tile, lookIndex: t },
      text: formatNumber(step),
      title: `step ${formatNumber(step)} · ${formatEpoch(epoch)}`,
      chosen: t === lookIndex,
      turned: turned[t].has(imageIndex) ? became : /** @type {const} */ (""),
      step,
    };
  });
}
