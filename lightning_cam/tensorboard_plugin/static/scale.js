// Brings a tile's map into units in which 1 is the full color.

import { isDiverging } from "./colors.js";
import { cells, extent } from "./record.js";

/** Whether what speaks against the class is shown as well: not in a difference, whose blue says less. */
export const isSigned = (state) => state.signed && state.view !== "diff";

export const activeColormap = (state) => (state.signed || state.view === "diff" ? state.diverging : state.sequential);

/** The value that gets the full color. `timelines` are those shown together: what is compared shares a scale. */
function unit(state, timelines, { timeline, t, i, method }) {
  if (state.scale === "image") return extent(timeline.looks[t].maps[method], i, isSigned(state));
  const hash = timeline.probe.hashes[i];
  let largest = 0;
  for (const other of timelines) {
    const peaks = other.peaks(method, isSigned(state));
    const of = state.scale === "common" ? peaks : [peaks[other.probe.hashes.indexOf(hash)] ?? 0];
    for (const peak of of) largest = Math.max(largest, peak);
  }
  return largest;
}

/** One map in units of its scale; null where it says nothing. */
function scaled(state, timelines, tile) {
  const map = tile.timeline.looks[tile.t].maps[tile.method];
  if (!map || !extent(map, tile.i, isSigned(state))) return null;
  const values = cells(map, tile.i);
  if (!isSigned(state)) values.forEach((value, k) => (values[k] = Math.max(0, value)));
  const zero = startsAtSmallest(state) ? values.reduce((a, b) => Math.min(a, b)) : 0;
  const full = unit(state, timelines, tile);
  if (zero === full) return null; // one value everywhere: no shape
  for (let k = 0; k < values.length; k++) values[k] = (values[k] - zero) / (full - zero);
  return { values, rows: map.rows, columns: map.columns };
}

/**
 * Whether a map's smallest value, zero if any is negative, has no color: as in the logger's grid, see scale_per_image
 * in lightning_cam/render. From zero on, a map that is positive everywhere, as of attention, would be one color.
 */
export function startsAtSmallest(state) {
  return state.scale === "image" && !state.signed && state.view !== "diff";
}

/**
 * What a tile shows: {values, rows, columns}, or {missing: "why"}.
 * A tile with a `reference` look shows the difference to it, both in units of their scale.
 */
export function tileValues(state, timelines, tile) {
  if (!tile.timeline.looks[tile.t].maps[tile.method]) return { missing: "not recorded" };
  const now = scaled(state, timelines, tile);
  if (tile.reference === null) return now ?? { missing: "no evidence" };
  const then = scaled(state, timelines, { ...tile, t: tile.reference });
  if (!now && !then) return { missing: "no evidence" };
  const shape = now ?? then;
  const values = shape.values.map((_, k) => (now ? now.values[k] : 0) - (then ? then.values[k] : 0));
  return { ...shape, values };
}

/** The value under the pointer, as text. */
export function describeValue(state, tile, shown, row, column) {
  const cell = row * shown.columns + column;
  const share = Math.round(100 * shown.values[cell]);
  if (tile.reference !== null) return { value: null, text: `${share > 0 ? "+" : ""}${share} % of the scale` };
  const value = cells(tile.timeline.looks[tile.t].maps[tile.method], tile.i)[cell];
  return { value, text: `${isDiverging(activeColormap(state)) && share > 0 ? "+" : ""}${share} % of the scale` };
}
