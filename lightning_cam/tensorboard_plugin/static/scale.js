// Brings a tile's map into units in which 1 is the full color.

import { blockScale } from "./blockmaps.js";
import { isDiverging } from "./colors.js";
import { fullScale } from "./fullscale.js";
import { planeOfMap, shownPlanes, sideOf } from "./planes.js";
import { dequantize, largestValue } from "./record.js";
import { readable } from "./text.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */
/** @typedef {import("./views.js").Tile} Tile */

/**
 * A map in units of its scale.
 * @typedef {object} ScaledMap
 * @property {Float32Array} values rows × columns; 1 is the full color. Of colors red, green and blue, one after the other
 * @property {number} rows
 * @property {number} columns
 * @property {boolean} [isColor] whether the values are colors from -1 to 1, which have no scale
 * @property {number[]} [planes] which planes stand side by side in it; left out where images have none
 * @property {number} [side] how many of them stand in a row
 */

/** @typedef {{ missing: string, reason: string }} MissingMap a tile that has no map to show: in two words, and why */

/**
 * Whether what speaks against the class is shown as well: not in a difference, whose blue says less.
 * @param {Pick<State, "signed" | "view">} state
 */
export const isSigned = (state) => state.signed && state.view !== "diff";

/** @param {Pick<State, "signed" | "view" | "diverging" | "sequential">} state */
export const activeColormap = (state) => (state.signed || state.view === "diff" ? state.diverging : state.sequential);

/**
 * Whether a map's smallest value, zero if any is negative, has no color: as in the logger's grid, see scale_per_image
 * in lightning_cam/render. From zero on, a map that is positive everywhere, as of attention, would be one color.
 * @param {Pick<State, "scale" | "signed" | "view">} state
 */
export function startsAtSmallest(state) {
  return state.scale === "image" && !state.signed && state.view !== "diff" && state.view !== "depth";
}

/**
 * The quantized maps that a tile's is one of; undefined where its method was not recorded.
 * @param {Pick<Tile, "timeline" | "lookIndex" | "method"> & Partial<Pick<Tile, "imageIndex" | "block">>} tile
 * @returns {import("./record.js").QuantizedMaps | undefined}
 */
export function mapsOf({ timeline, lookIndex, imageIndex = 0, method, block }) {
  const { maps, blocks } = timeline.looks[lookIndex];
  if (method === null) return undefined;
  if (block === undefined) return maps[method];
  return blocks && imageIndex < blocks.images ? blocks.maps[method]?.[block] : undefined;
}

/**
 * The value that gets the full color.
 * @param {State} state
 * @param {Timeline[]} timelines those shown together: what is compared shares a scale
 * @param {Tile} tile
 * @param {import("./record.js").QuantizedMaps} maps the tile's
 */
function fullColorValue(state, timelines, { timeline, imageIndex, method, block }, maps) {
  if (block !== undefined && method !== null) return blockScale(timeline, method, imageIndex, isSigned(state));
  if (state.scale === "image" || method === null) return largestValue(maps, imageIndex, isSigned(state));
  const hash = state.scale === "common" ? null : timeline.probe.hashes[imageIndex];
  return fullScale(timelines, method, isSigned(state), hash)?.value ?? 0;
}

/**
 * A tile's map in units of its scale; null where it says nothing.
 * @param {State} state
 * @param {Timeline[]} timelines
 * @param {Tile} tile
 * @returns {ScaledMap | null}
 */
function scaledMap(state, timelines, tile) {
  const maps = mapsOf(tile);
  const isBlock = tile.block !== undefined; // one that reads nothing is cold beside the others, not without a scale
  if (!maps || (!isBlock && !largestValue(maps, tile.imageIndex, isSigned(state)))) return null;
  const values = dequantize(maps, tile.imageIndex);
  if (!isSigned(state)) values.forEach((value, k) => (values[k] = Math.max(0, value)));
  const zero = startsAtSmallest(state) && !isBlock ? values.reduce((a, b) => Math.min(a, b)) : 0;
  const full = fullColorValue(state, timelines, tile, maps);
  if (zero === full) return null; // one value everywhere: no shape
  for (let k = 0; k < values.length; k++) values[k] = (values[k] - zero) / (full - zero);
  return laidOut(state, tile, maps, values);
}

/**
 * A map as it stands in a tile: of images with planes those that the tile shows, side by side, all on one scale.
 * @param {State} state
 * @param {Tile} tile
 * @param {import("./record.js").QuantizedMaps} maps
 * @param {Float32Array} values planes × rows × columns
 * @returns {ScaledMap}
 */
function laidOut(state, tile, { rows, columns, planes: ofMap = 1 }, values) {
  const planes = shownPlanes(state, tile);
  if (!planes.length) return { values, rows, columns };
  const [side, pictures] = [sideOf(planes), tile.timeline.probe.planes?.numbers.length ?? 1];
  const laid = new Float32Array(side * rows * side * columns);
  planes.forEach((k, n) => {
    const from = planeOfMap(k, pictures, ofMap) * rows * columns;
    const to = Math.floor(n / side) * rows * side * columns + (n % side) * columns;
    for (let row = 0; row < rows; row++) laid.set(values.subarray(from + row * columns, from + (row + 1) * columns), to + row * side * columns);
  });
  return { values: laid, rows: side * rows, columns: side * columns, planes, side };
}

/**
 * The map that a tile shows, or why it shows none. A tile with a reference shows the difference to that look's map,
 * both in units of their scale.
 * @param {State} state
 * @param {Timeline[]} timelines those shown together
 * @param {Tile} tile
 * @returns {ScaledMap | MissingMap}
 */
export function tileMap(state, timelines, tile) {
  const maps = mapsOf(tile);
  if (!maps) return { missing: "not recorded", reason: whyNotRecorded(tile) };
  if (maps.isColor) return colorMap(tile, maps);
  const map = scaledMap(state, timelines, tile);
  if (tile.referenceIndex === null) return map ?? noEvidence(state, tile);
  const planes = shownPlanes(state, tile); // the same of both
  const reference = scaledMap(state, timelines, { ...tile, lookIndex: tile.referenceIndex, planes });
  const shape = map ?? reference;
  if (!shape) return noEvidence(state, tile);
  const values = shape.values.map((_, k) => (map ? map.values[k] : 0) - (reference ? reference.values[k] : 0));
  return { ...shape, values };
}

/** @param {Tile} tile */
function whyNotRecorded({ timeline, lookIndex, imageIndex, block }) {
  const images = timeline.looks[lookIndex].blocks?.images ?? 0;
  if (block === undefined) return "The method did not run at this look.";
  return imageIndex < images ? "The method does not tell what blocks read." : `What blocks read was kept of the first ${images} images.`;
}

/**
 * Colors as they are, or, where there is a reference, how far each is from that of the other look: 1 for opposite ones.
 * @param {Tile} tile
 * @param {import("./record.js").QuantizedMaps} maps
 * @returns {ScaledMap | MissingMap}
 */
function colorMap(tile, maps) {
  const shape = { rows: maps.rows, columns: maps.columns };
  if (!largestValue(maps, tile.imageIndex, true)) {
    const why = Number.isFinite(maps.scales[2 * tile.imageIndex]) ? "All features are alike." : "The map is not finite.";
    return { missing: "no features", reason: why };
  }
  const values = dequantize(maps, tile.imageIndex);
  if (tile.referenceIndex === null) return { ...shape, values, isColor: true };
  const before = mapsOf({ ...tile, lookIndex: tile.referenceIndex });
  if (!before || before.codes.length !== maps.codes.length) return { missing: "not recorded", reason: "The other look has no such colors." };
  const others = dequantize(before, tile.imageIndex);
  const size = maps.rows * maps.columns;
  const distance = (/** @type {number} */ cell) => Math.hypot(...[0, 1, 2].map((n) => values[n * size + cell] - others[n * size + cell])) / (2 * Math.sqrt(3));
  return { ...shape, values: Float32Array.from({ length: size }, (_, cell) => distance(cell)) };
}

/**
 * What it means that a map says nothing, and which other methods say something.
 * @param {State} state
 * @param {Tile} tile
 * @returns {MissingMap}
 */
function noEvidence(state, { timeline, lookIndex, imageIndex, method, block }) {
  if (block !== undefined) return { missing: "no evidence", reason: "No block reads anything for what is explained." };
  const { maps } = timeline.looks[lookIndex];
  const own = maps[method ?? ""];
  const explained = timeline.explainedClass(lookIndex, imageIndex);
  const what = explained === null ? "what is explained" : timeline.className(explained);
  const others = Object.keys(maps).filter((other) => other !== method && !maps[other].isColor);
  const telling = others.filter((other) => largestValue(maps[other], imageIndex, isSigned(state)));
  const where = telling.length ? ` Methods with evidence: ${telling.map(readable).join(", ")}.` : others.length ? " No other method shows any." : "";
  const finite = Number.isFinite(own.scales[2 * imageIndex]);
  const why = !finite ? "The map is not finite." : largestValue(own, imageIndex, isSigned(state)) ? "One value everywhere: no cell stands out." : `No positive evidence for ${what}.`;
  return { missing: "no evidence", reason: `${why}${where}` };
}

/**
 * The value in a cell of the map that a tile shows, raw (null for a difference), and as text its share of the scale.
 * @param {State} state
 * @param {Tile} tile
 * @param {ScaledMap} map
 * @param {number} row
 * @param {number} column
 * @returns {{ value: number | null, text: string }}
 */
export function describeValue(state, tile, map, row, column) {
  const cell = row * map.columns + column;
  if (map.isColor) {
    const size = map.rows * map.columns;
    const parts = ["red", "green", "blue"].map((name, n) => `${name} ${Math.round(100 * Math.min(1, Math.max(0, (map.values[n * size + cell] + 1) / 2)))} %`);
    return { value: null, text: parts.join(", ") };
  }
  const percent = Math.round(100 * map.values[cell]);
  if (tile.referenceIndex !== null) return { value: null, text: `${percent > 0 ? "+" : ""}${percent} % of the scale` };
  const maps = mapsOf(tile);
  const value = maps && !maps.isColor ? dequantize(maps, tile.imageIndex)[cellInMap(tile, maps, map, row, column)] ?? null : null;
  return { value, text: `${isDiverging(activeColormap(state)) && percent > 0 ? "+" : ""}${percent} % of the scale` };
}

/**
 * The plane that a cell of a tile's map belongs to, and its place there; undefined where none stands.
 * @param {ScaledMap} map
 * @param {number} row
 * @param {number} column
 */
export function placeInPlane({ planes, side = 1, rows, columns }, row, column) {
  const [high, wide] = [rows / side, columns / side];
  const plane = planes?.[Math.floor(row / high) * side + Math.floor(column / wide)];
  return { plane, row: row % high, column: column % wide };
}

/**
 * Which value of a recorded map stands in a cell.
 * @param {Tile} tile
 * @param {import("./record.js").QuantizedMaps} maps
 * @param {ScaledMap} map
 * @param {number} row
 * @param {number} column
 */
function cellInMap({ timeline }, maps, map, row, column) {
  if (!map.planes) return row * map.columns + column;
  const place = placeInPlane(map, row, column);
  const plane = place.plane === undefined ? NaN : planeOfMap(place.plane, timeline.probe.planes?.numbers.length ?? 1, maps.planes ?? 1);
  return (plane * maps.rows + place.row) * maps.columns + place.column;
}

/**
 * A map's largest value as a share of the full color of its image over time: what a scale per image does not show.
 * @param {State} state
 * @param {Tile} tile
 */
export function strengthOf(state, tile) {
  const maps = mapsOf(tile);
  if (!maps || maps.isColor || tile.method === null) return 0;
  const { timeline, method, imageIndex, block } = tile;
  if (block !== undefined) return Math.min(1, largestValue(maps, imageIndex, isSigned(state)) / (blockScale(timeline, method, imageIndex, isSigned(state)) || 1));
  const full = fullScale([timeline], method, isSigned(state), timeline.probe.hashes[imageIndex])?.value;
  return full ? Math.min(1, largestValue(maps, imageIndex, isSigned(state)) / full) : 0;
}
