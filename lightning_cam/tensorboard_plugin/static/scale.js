// Brings a tile's map into units in which 1 is the full colour.

import { isDiverging } from "./colors.js";
import { cells, extent } from "./record.js";

export const activeColormap = (state) => (state.signed || state.view === "diff" ? state.diverging : state.sequential);

/** The value that gets the full colour. `timelines` are those shown together: what is compared shares a scale. */
function unit(state, timelines, { timeline, t, i, method }) {
  if (state.scale === "image") return extent(timeline.looks[t].maps[method], i, state.signed);
  const hash = timeline.probe.hashes[i];
  let largest = 0;
  for (const other of timelines) {
    const peaks = other.peaks(method, state.signed);
    const of = state.scale === "common" ? peaks : [peaks[other.probe.hashes.indexOf(hash)] ?? 0];
    for (const peak of of) largest = Math.max(largest, peak);
  }
  return largest;
}

/** One map in units of its scale; null where it says nothing. */
function scaled(state, timelines, tile) {
  const map = tile.timeline.looks[tile.t].maps[tile.method];
  if (!map || !extent(map, tile.i, state.signed)) return null;
  const full = unit(state, timelines, tile);
  const values = cells(map, tile.i);
  for (let k = 0; k < values.length; k++) values[k] = (state.signed ? values[k] : Math.max(0, values[k])) / full;
  return { values, rows: map.rows, columns: map.columns, unit: full };
}

/**
 * What a tile shows: {values, rows, columns, unit}, or {missing: "why"}.
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
