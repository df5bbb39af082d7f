// One run's record, and what the page wants to know of it.

import { decodeBlocks } from "./blockmaps.js";
import { decodeFound } from "./foundmaps.js";
import { isBlocks, isFound, isLook, isMetrics, isProbe } from "./heads.js";
import { borderLines, pathOf } from "./outline.js";
import { FILE_HEADER_BYTES, decodeLook, decodeRecords, dequantize, fileHeaderError, isPredicted, sizeOf } from "./record.js";
import { formatNumber, readable } from "./text.js";

/** @typedef {import("./record.js").Look} Look */
/** @typedef {import("./record.js").Probe} Probe */
/** @typedef {import("./source.js").Entry} Entry */

/**
 * What the model said of one image at one look; null where it is not known.
 * @typedef {object} Prediction
 * @property {number | null} predicted the most probable class
 * @property {number | null} probability of that class
 * @property {number} label the image's class, -1 where unknown
 * @property {number | null} labelProbability
 * @property {boolean | null} correct whether the most probable class is the label
 * @property {{ classIdx: number, probability: number }[]} top the most probable classes, best first
 */

const LEAST_OVERLAP = 0.5; // of what is predicted and true, where a prediction counts as right

/** @type {Probe} */
const NO_PROBE = { name: "", labels: [], class_names: [], size: [1, 1], hashes: [], bytes: [], region_bytes: [] };

/** One record, growing while its run goes on. */
export class Timeline {
  /** @param {Pick<Entry, "id" | "run" | "uid">} entry */
  constructor({ id, run, uid }) {
    this.id = id;
    this.uid = uid;
    // The run's name: in full, without the folders that all runs share, and as it fits into the select of the runs.
    this.fullName = run;
    this.label = run;
    this.shortName = run;
    /** Where the next unread record starts in the file. */
    this.offset = 0;
    /** @type {string | null} why the file cannot be read */
    this.error = null;
    this.probe = NO_PROBE;
    /** @type {ArrayBuffer[]} WebP */
    this.encodedImages = [];
    /** @type {ArrayBuffer[]} PNG, white where the object is */
    this.encodedRegions = [];
    /** @type {ImageBitmap[]} empty until they are decoded, see pictures.js */
    this.images = [];
    /** @type {ImageBitmap[][]} of each image those of its planes; empty where it has none */
    this.planePictures = [];
    /** @type {ImageBitmap[]} white where the object is; empty until they are decoded, or where there are none */
    this.masks = [];
    /** @type {Path2D[]} around the objects, those that were asked for, see outlineIn */
    this.outlines = [];
    /** @type {Look[]} in order of their steps */
    this.looks = [];
    /** @type {Map<number, Uint8Array>} WebP of validation images that findings name */
    this.foundPictures = new Map();
    /** How many records are damaged and left out. */
    this.damaged = 0;
    /** Grows whenever something was read. */
    this.revision = 0;
    /** @type {Map<string, any>} */
    this.cache = new Map();
  }

  /** All methods that there is a map of, at any look. */
  get methods() {
    return this.cached("methods", () => {
      /** @type {Set<string>} */
      const methods = new Set();
      for (const { maps } of this.looks) for (const method in maps) methods.add(method);
      return [...methods];
    });
  }

  /** The steps of all looks, in order. */
  get steps() {
    return this.cached("steps", () => this.looks.map(({ step }) => step));
  }

  /** How many images the probe batch has. */
  get count() {
    return this.probe.labels.length;
  }

  /** Width over height of the images, of those with planes of one plane. */
  get aspect() {
    return this.probe.size[1] / this.probe.size[0];
  }

  /**
   * Take the file's bytes from `this.offset` on; return whether there was anything new.
   * @param {ArrayBuffer} buffer
   * @param {number} [left] bytes of the file behind these, which come later
   */
  feed(buffer, left = 0) {
    let at = 0;
    if (this.offset === 0) {
      if (buffer.byteLength < FILE_HEADER_BYTES) return false;
      this.error = fileHeaderError(buffer);
      if (this.error) return true;
      at = FILE_HEADER_BYTES;
    }
    const start = at;
    for (const found of decodeRecords(buffer, at, left)) {
      if (found.damaged || !this.#add(found.head, found.arrays)) this.damaged++;
      at = found.end;
    }
    if (at === start) return false;
    this.offset += at;
    this.revision++;
    this.cache.clear();
    return true;
  }

  /**
   * Add what a record says; return whether it can be so.
   * @param {any} head
   * @param {import("./record.js").ArrayReader} arrays
   */
  #add(head, arrays) {
    try {
      if (head.kind === "probe") return !this.count && isProbe(head) && this.#addProbe(head, arrays);
      if (head.kind === "look") return isLook(head, Boolean(this.probe.planes)) && this.#addLook(decodeLook(head, arrays, this.count));
      if (head.kind === "metrics") return isMetrics(head) && this.#addMetrics(head);
      if (head.kind === "findings") return isFound(head) && this.#addFound(head, arrays);
      if (head.kind === "blocks") return isBlocks(head, this.count) && this.#addBlocks(head, arrays);
      return true; // of a later version of the format
    } catch (error) {
      if (error instanceof RangeError) return false; // arrays longer than the record
      throw error;
    }
  }

  /**
   * @param {Probe} probe
   * @param {import("./record.js").ArrayReader} arrays
   */
  #addProbe(probe, arrays) {
    const images = probe.bytes.map((size) => arrays.bytes(size));
    const regions = probe.region_bytes.map((size) => arrays.bytes(size));
    this.probe = probe;
    this.encodedImages = images;
    this.encodedRegions = regions;
    return true;
  }

  /** @param {Look} look */
  #addLook(look) {
    // A run that resumed from a checkpoint goes through these steps once more.
    while (this.looks.length && this.looks[this.looks.length - 1].step >= look.step) this.looks.pop();
    this.looks.push(look);
    return true;
  }

  /**
   * Add values that were known only after the look of their step had been written.
   * @param {{ step: number, metrics: Record<string, number | null> }} head
   */
  #addMetrics({ step, metrics }) {
    const look = this.looks[this.lookAt(step)];
    if (look?.step === step) Object.assign(look.metrics, metrics);
    return true;
  }

  /**
   * Add what was found of more images at the look of this step. The maps of images are kept of the newest one only.
   * Each picture is written once, at the first look that names its image.
   * @param {any} head that isFound has passed
   * @param {import("./record.js").ArrayReader} arrays
   */
  #addFound(head, arrays) {
    const { means, imageMaps, encoded } = decodeFound(head, arrays);
    for (const [image, bytes] of encoded) this.foundPictures.set(image, bytes);
    const look = this.looks[this.lookAt(head.step)];
    if (look?.step !== head.step) return true;
    for (const earlier of this.looks) delete earlier.imageMaps;
    Object.assign(look, { findings: head.findings, means, imageMaps });
    return true;
  }

  /**
   * Add what blocks read at the look of this step.
   * @param {any} head that isBlocks has passed
   * @param {import("./record.js").ArrayReader} arrays
   */
  #addBlocks(head, arrays) {
    const blocks = decodeBlocks(head, arrays);
    const look = this.looks[this.lookAt(head.step)];
    if (look?.step === head.step) look.blocks = blocks;
    return true;
  }

  /** @param {number} classIdx */
  className(classIdx) {
    if (classIdx < 0) return "?";
    const name = this.probe.class_names[classIdx];
    return name === undefined ? `class ${classIdx}` : readable(name);
  }

  /**
   * What is true of an image, as its caption says it.
   * @param {number} imageIndex
   */
  nameOf(imageIndex) {
    const label = this.probe.labels[imageIndex];
    const text = readable(this.probe.texts?.[imageIndex] ?? "");
    // A number alone would be taken for anything.
    if (text && !this.looks[0]?.values) return text;
    return label < 0 ? `image ${imageIndex + 1}` : this.className(label);
  }

  /**
   * The value that a regression predicts, before the true one; empty where there is none.
   * @param {number} lookIndex
   * @param {number} imageIndex
   */
  valueOf(lookIndex, imageIndex) {
    const { values } = this.looks[lookIndex];
    if (!values) return "";
    const truth = readable(this.probe.texts?.[imageIndex] ?? "");
    return `${formatNumber(values[imageIndex], 4)}${truth ? ` → ${truth}` : ""}`;
  }

  /**
   * Names of the classes that captions can hold: the labels, and what was predicted at any look.
   * @returns {string[]}
   */
  get captionClasses() {
    return this.cached("caption classes", () => {
      const indices = new Set(this.probe.labels);
      for (const { topK, topClasses } of this.looks) {
        for (let at = 0; at < topClasses.length; at += topK) indices.add(topClasses[at]);
      }
      return [...indices].map((classIdx) => this.className(classIdx));
    });
  }

  /**
   * @param {number} lookIndex
   * @param {number} imageIndex
   * @returns {Prediction}
   */
  prediction(lookIndex, imageIndex) {
    const look = this.looks[lookIndex];
    const label = this.probe.labels[imageIndex];
    if (!look.topK) return { predicted: null, probability: null, label, labelProbability: null, correct: null, top: [] };
    const top = Array.from({ length: look.topK }, (_, k) => ({
      classIdx: look.topClasses[imageIndex * look.topK + k],
      probability: look.topProbabilities[imageIndex * look.topK + k],
    }));
    const [{ classIdx: predicted, probability }] = top;
    if (look.parts) {
      const overlap = look.parts.overlaps[imageIndex];
      const correct = Number.isNaN(overlap) || predicted < 0 ? null : overlap >= LEAST_OVERLAP;
      return { predicted: predicted < 0 ? null : predicted, probability, label, labelProbability: null, correct, top: [] };
    }
    const known = label >= 0;
    const labelProbability = known ? look.labelProbabilities[imageIndex] : null;
    return { predicted, probability, label, labelProbability, correct: known ? predicted === label : null, top };
  }

  /**
   * Where the part of an image that the maps of a look are about was predicted, as lines around it; null where maps are
   * about whole images.
   * @param {number} lookIndex
   * @param {number} imageIndex
   */
  predictedOutline(lookIndex, imageIndex) {
    const { parts } = this.looks[lookIndex];
    if (!parts) return null;
    return this.cached(`predicted ${lookIndex} ${imageIndex}`, () =>
      pathOf(borderLines(parts.columns, parts.rows, (x, y) => isPredicted(parts, imageIndex, x, y))),
    );
  }

  /**
   * How far the part of an image that is predicted is the true one, in words; empty where that is not known.
   * @param {number} lookIndex
   * @param {number} imageIndex
   */
  overlapOf(lookIndex, imageIndex) {
    const overlap = this.looks[lookIndex].parts?.overlaps[imageIndex] ?? NaN;
    return Number.isNaN(overlap) ? "" : `IoU ${overlap.toFixed(2)}`;
  }

  /**
   * The class that the maps of an image explain; null where it is not known.
   * @param {number} lookIndex
   * @param {number} imageIndex
   */
  explainedClass(lookIndex, imageIndex) {
    const { classIdx, topK, topClasses } = this.looks[lookIndex];
    return classIdx?.[imageIndex] ?? (topK ? topClasses[imageIndex * topK] : null);
  }

  /**
   * The index of the newest look at or before `step`, or 0.
   * @param {number} step
   */
  lookAt(step) {
    let low = 0;
    let high = this.looks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.looks[middle].step <= step) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /**
   * What `compute` returns, computed once until something is read: redrawing asks for it at each step of the slider.
   * @template Value
   * @param {string} key
   * @param {() => Value} compute
   * @returns {Value}
   */
  cached(key, compute) {
    if (!this.cache.has(key)) this.cache.set(key, compute());
    return this.cache.get(key);
  }

  /**
   * For each image how much its map changes from look to look: the mean of 1 - cosine, 0 where there is none.
   * @param {string} method
   */
  drift(method) {
    return this.cached(`drift ${method}`, () => {
      const series = this.driftSeries(method);
      return Float32Array.from({ length: this.count }, (_, i) => nanMean(series.map((drifts) => drifts[i])) || 0);
    });
  }

  /**
   * For each look and image 1 - cosine between this map and the one before; NaN where there is none.
   * @param {string} method
   */
  driftSeries(method) {
    return this.cached(`drift series ${method}`, () => {
      const series = [];
      /** @type {Float32Array[] | null} */
      let before = null;
      /** @type {Float32Array[]} of the look before last, to be written to */
      let spare = [];
      for (const { maps } of this.looks) {
        const values = maps[method] ? Array.from({ length: this.count }, (_, i) => dequantized(maps[method], i, spare[i])) : null;
        series.push(Float32Array.from({ length: this.count }, (_, i) => (before && values ? 1 - cosine(before[i], values[i]) : NaN)));
        spare = before ?? [];
        before = values;
      }
      return series;
    });
  }
}

/**
 * The values of a map, written over those of another one if it has the same size.
 * @param {import("./record.js").QuantizedMaps} maps
 * @param {number} imageIndex
 * @param {Float32Array | undefined} spare
 */
function dequantized(maps, imageIndex, spare) {
  return spare?.length === sizeOf(maps) ? dequantize(maps, imageIndex, spare) : dequantize(maps, imageIndex);
}

/**
 * The cosine similarity of two maps; NaN where one has no evidence: there is nothing to compare.
 * @param {Float32Array} a
 * @param {Float32Array} b
 */
function cosine(a, b) {
  let dot = 0;
  let squaresOfA = 0;
  let squaresOfB = 0;
  for (let k = 0; k < a.length; k++) {
    dot += a[k] * b[k];
    squaresOfA += a[k] * a[k];
    squaresOfB += b[k] * b[k];
  }
  return squaresOfA && squaresOfB ? dot / Math.sqrt(squaresOfA * squaresOfB) : NaN;
}

/**
 * The mean of the finite values; NaN where there is none.
 * @param {Iterable<number>} values
 */
export function nanMean(values) {
  let sum = 0;
  let count = 0;
  for (const value of values) {
    if (Number.isFinite(value)) {
      sum += value;
      count++;
    }
  }
  return count ? sum / count : NaN;
}
