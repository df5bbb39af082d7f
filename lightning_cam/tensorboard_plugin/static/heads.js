// What the JSON of a record may say: checked before anything is made of it. A record that says something else is left
// out, as one is whose bytes are damaged: what it was written by, or changed by, is not known.

import { arePlanes } from "./planes.js";

/** @param {any} value */
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;

/** @param {any} value */
const isName = (value) => typeof value === "string";

/**
 * @param {any} values
 * @param {(value: any) => boolean} isOne
 */
const areAll = (values, isOne) => Array.isArray(values) && values.every(isOne);

/** @param {any} value */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @param {any} metrics */
const areMetrics = (metrics) => isObject(metrics) && Object.values(metrics).every((value) => value === null || Number.isFinite(value));

/**
 * Whether this is the JSON of a probe batch.
 * @param {any} head
 * @returns {head is import("./record.js").Probe}
 */
export function isProbe({ name, labels, class_names, size, hashes, bytes, region_bytes, texts = [], planes }) {
  const count = labels?.length;
  return (
    isName(name) &&
    areAll(labels, Number.isSafeInteger) &&
    areAll(class_names, isName) &&
    areAll(size, (side) => isCount(side) && side > 0) &&
    size.length === 2 &&
    areAll(hashes, isName) &&
    hashes.length === count &&
    areAll(bytes, isCount) &&
    bytes.length === count &&
    areAll(region_bytes, isCount) &&
    (region_bytes.length === count || !region_bytes.length) &&
    areAll(texts, isName) &&
    (texts.length === count || !texts.length) &&
    (planes === undefined || arePlanes(planes))
  );
}

/**
 * Whether this is the JSON of a look. How long its arrays are is seen when they are read.
 * @param {any} head
 * @param {boolean} [havePlanes] whether images have planes
 */
export function isLook({ step, epoch, time, metrics, methods, top, colors = [], parts = [1, 1] }, havePlanes = false) {
  /** @type {(entry: [string, any]) => boolean} */
  const isGrid = ([method, grid]) =>
    areAll(grid, (side) => isCount(side) && side > 0) &&
    (colors.includes(method) ? grid.length === 3 && grid[0] === 3 : grid.length === 2 || (havePlanes && grid.length === 3));
  return (
    Number.isSafeInteger(step) &&
    Number.isSafeInteger(epoch) &&
    Number.isFinite(time) &&
    areMetrics(metrics) &&
    areAll(colors, isName) &&
    isObject(methods) &&
    Object.entries(methods).every(isGrid) &&
    isCount(top) &&
    areAll(parts, (side) => isCount(side) && side > 0) &&
    parts.length === 2
  );
}

/**
 * Whether this is the JSON of what was found at an earlier look.
 * @param {any} head
 */
export function isFound({ step, findings, classes, images, pictures, picture_bytes: lengths }) {
  const isFinding = (/** @type {any} */ finding) =>
    isObject(finding) &&
    [finding.kind, finding.text, finding.status].every(isName) &&
    (finding.since === null || Number.isSafeInteger(finding.since)) &&
    areAll(finding.classes, Number.isSafeInteger) &&
    areAll(finding.images, isCount);
  const areMaps = areAll(classes, Number.isSafeInteger) && areAll(images, isCount);
  const arePictures = areAll(pictures, isCount) && areAll(lengths, isCount) && pictures.length === lengths.length;
  return Number.isSafeInteger(step) && areAll(findings, isFinding) && areMaps && arePictures;
}

/**
 * Whether this is the JSON of what blocks read at an earlier look.
 * @param {any} head
 * @param {number} count images of the probe batch
 */
export function isBlocks({ step, names, methods, images, shapes, why = "" }, count) {
  const isGrid = (/** @type {any} */ grid) => areAll(grid, (side) => isCount(side) && side > 0) && grid.length === 2;
  const areNames = areAll(names, isName) && areAll(methods, isName) && isName(why);
  return Number.isSafeInteger(step) && areNames && isCount(images) && images <= count && areAll(shapes, isGrid) && shapes.length === names.length;
}

/**
 * Whether this is the JSON of metrics that belong to an earlier look.
 * @param {any} head
 */
export const isMetrics = ({ step, metrics }) => Number.isSafeInteger(step) && areMetrics(metrics);
