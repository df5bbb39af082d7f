// The numbers behind what is shown, as CSV.

import { sharesOf, shownPlanes } from "./planes.js";
import { mapsOf, strengthOf } from "./scale.js";
import { collectCharts } from "./series.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */

const FIELDS = ["run", "method", "block", "step", "epoch", "image", "name", "label", "predicted", "probability", "label_probability", "value", "largest_value", "strength", "pinned", "note"];

/**
 * One row per tile.
 * @param {State} state
 * @param {(import("./views.js").Tile | null)[]} tiles
 * @param {string} caption
 * @param {import("./notes.js").Notes} notes
 */
export function tableOfTiles(state, tiles, caption, notes) {
  const havePlanes = tiles.some((tile) => tile?.timeline.probe.planes);
  const rows = tiles.flatMap((tile) => {
    if (!tile || tile.method === null) return [];
    const { timeline, lookIndex, imageIndex, method, block } = tile;
    const { step, epoch } = timeline.looks[lookIndex];
    const { predicted, probability, label, labelProbability } = timeline.prediction(lookIndex, imageIndex);
    const name = (/** @type {number | null} */ classIdx) => (classIdx === null || classIdx < 0 ? "" : timeline.className(classIdx));
    const largest = mapsOf(tile)?.scales[2 * imageIndex];
    const value = timeline.looks[lookIndex].values?.[imageIndex];
    const { pinned, note } = notes.of(timeline.probe.hashes[imageIndex]);
    const blockName = block === undefined ? "" : timeline.looks[lookIndex].blocks?.names[block];
    return [[timeline.fullName, method, blockName, step, epoch, imageIndex + 1, timeline.nameOf(imageIndex), name(label), name(predicted), probability, labelProbability, value, largest, strengthOf(state, tile), pinned ? "yes" : "", note, ...(havePlanes ? planeCells(state, tile) : [])]];
  });
  return csv(caption, havePlanes ? [...FIELDS, "planes", "evidence_of_planes"] : FIELDS, rows);
}

/**
 * The numbers of the slices, frames or instances that a tile shows, and their shares of the evidence.
 * @param {State} state
 * @param {import("./views.js").Tile} tile
 */
function planeCells(state, tile) {
  const { timeline, lookIndex, imageIndex, method } = tile;
  const planes = shownPlanes(state, tile);
  const shares = sharesOf(timeline, lookIndex, imageIndex, method);
  return [planes.map((k) => timeline.probe.planes?.numbers[k]).join(" "), planes.map((k) => shares?.[k].toFixed(4)).join(" ")];
}

/**
 * One row per step, one column per curve of the charts.
 * @param {Timeline[]} timelines
 * @param {string[]} methods
 * @param {number[]} steps
 * @param {string} caption
 */
export function tableOfMetrics(timelines, methods, steps, caption) {
  const series = collectCharts(timelines, methods).flatMap(({ title, series }) =>
    series.map(({ fullName, points }) => ({ title: series.length > 1 ? `${title} · ${fullName}` : title, points: new Map(points) })),
  );
  const rows = steps.map((step) => [step, ...series.map(({ points }) => points.get(step))]);
  return csv(caption, ["step", ...series.map(({ title }) => title)], rows);
}

/**
 * @param {string} caption
 * @param {string[]} fields
 * @param {(string | number | null | undefined)[][]} rows
 */
function csv(caption, fields, rows) {
  return [[`# ${caption}`], fields, ...rows].map((row) => row.map(cellOf).join(",")).join("\r\n") + "\r\n";
}

/**
 * A cell. A text that a spreadsheet would take for a formula gets an apostrophe, which spreadsheets do not show.
 * @param {string | number | null | undefined} value
 */
function cellOf(value) {
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  const text = value ?? "";
  const plain = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}
