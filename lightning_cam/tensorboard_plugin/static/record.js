// The bytes of a record, which lightning_cam/timeline writes; lightning_cam/timeline/format.py describes them.

const MAGIC = 0x4d41434c; // "LCAM", read as a little-endian number
const VERSION = 2;
export const FILE_HEADER_BYTES = 16;
const RECORD_HEADER_BYTES = 8; // the payload's length and its CRC-32
const TEXT_BEGINS = new TextEncoder().encode('{"kind":'); // what a record's JSON begins with
const PROBABILITY_SCALE = 65535; // probabilities are stored in units of 1 over this

/**
 * The JSON of the first record: the probe batch. Arrays hold one element per image.
 * @typedef {object} Probe
 * @property {string} name the callback's
 * @property {number[]} labels class indices, -1 where unknown
 * @property {string[]} class_names empty where unknown
 * @property {[number, number]} size height and width of the images before they were stored
 * @property {string[]} hashes CRC-32 of the images, by which runs find the images that they share
 * @property {number[]} bytes sizes of the encoded images
 * @property {number[]} region_bytes sizes of the encoded masks; empty where there are none
 * @property {string[]} [texts] what is true of each image, in words; left out where labels say it
 * @property {import("./planes.js").Planes} [planes] what images consist of, if they are volumes, videos or bags
 */

/**
 * One method's maps of all images at one look, quantized. Of each map 127 is the largest value and -127 the smallest.
 * @typedef {object} QuantizedMaps
 * @property {number} rows
 * @property {number} columns
 * @property {boolean} [isColor] whether the maps are of colors: red, green and blue from -1 to 1, one after the other
 * @property {number} [planes] of each map; 1 where images have none
 * @property {Float32Array | null} [evidence] images × planes: the share of each in what is positive; null without planes
 * @property {Int8Array} codes images × planes (3 if colors) × rows × columns
 * @property {Float32Array} scales images × 2: the largest value and minus the smallest, or 0; NaN where not finite
 */

/**
 * What a look says of regions or objects of the images. The only top class is the part's, -1 without one, and its
 * probability the part's share of the area, or its probability.
 * @typedef {object} Parts
 * @property {number} rows
 * @property {number} columns
 * @property {Float32Array} overlaps intersection over union with the truth; NaN where that is not known
 * @property {Uint8Array} bits where the part was predicted; a whole number of bytes for each row
 */

/**
 * What was recorded at one validation.
 * @typedef {object} Look
 * @property {number} step
 * @property {number} epoch
 * @property {number} time seconds since 1970
 * @property {Record<string, number | null>} metrics by tag; null where not finite
 * @property {Record<string, QuantizedMaps>} maps by method
 * @property {number} topK how many of the most probable classes are known; 0 where the model does not classify
 * @property {Int32Array} topClasses images × topK, best first
 * @property {Float32Array} topProbabilities images × topK
 * @property {Float32Array} labelProbabilities of each image's label; 0 where that is unknown
 * @property {Int32Array | null} classIdx the classes explained; null where they are the most probable ones
 * @property {Float32Array | null} values predicted by a regression; null where it is none
 * @property {Parts | null} parts regions or objects of the images, where rows are such; null where rows are whole images
 * @property {import("./findings.js").Finding[]} [findings] what was found of more images at this look, if it was looked for
 * @property {import("./foundmaps.js").FoundMaps} [means] with the findings: the mean map of each class
 * @property {import("./blockmaps.js").BlockMaps} [blocks] what blocks read at this look, or why that is not known, if it was kept
 * @property {import("./foundmaps.js").FoundMaps} [imageMaps] with the newest findings: maps of validation images
 */

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

/** @param {Uint8Array} bytes */
export function crc32(bytes) {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ bytes[i]) & 255];
  return ~crc >>> 0;
}

/**
 * Why a file cannot be read, from its first bytes; null if it can.
 * @param {ArrayBuffer} buffer at least FILE_HEADER_BYTES
 */
export function fileHeaderError(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0, true) !== MAGIC) return "This file is not a CAM timeline.";
  const version = view.getUint32(4, true);
  if (version <= VERSION) return null;
  return `This timeline has format version ${version}, but this page reads up to version ${VERSION}: upgrade lightning-cam where TensorBoard runs.`;
}

/**
 * What stands at a place of the file: a whole record, or a gap that is damaged.
 * @typedef {{ head: any, arrays: ArrayReader, end: number, damaged?: undefined } | { damaged: true, end: number }} Found
 */

/**
 * Each whole record from a place on: its JSON, its arrays, and where it ends. One that is not whole is damaged if a whole
 * one comes later: it is passed over. Else the writer is at it, or was when it was killed: it is left for the next time.
 * @param {ArrayBuffer} buffer
 * @param {number} at
 * @param {number} [left] bytes of the file behind the buffer, which are not here yet
 * @returns {Generator<Found>}
 */
export function* decodeRecords(buffer, at, left = 0) {
  const search = new Search(buffer);
  while (at + RECORD_HEADER_BYTES + 4 <= buffer.byteLength) {
    let end = search.endOfRecord(at);
    if (end === null) {
      if (left && search.declaredEnd(at) > buffer.byteLength && search.declaredEnd(at) <= buffer.byteLength + left) return;
      const next = search.nextRecord(at + 1);
      if (next === null) return;
      yield { damaged: true, end: next };
      at = next;
      end = /** @type {number} */ (search.endOfRecord(at));
    }
    const payload = at + RECORD_HEADER_BYTES;
    const arraysAt = payload + 4 + search.view.getUint32(payload, true);
    const head = arraysAt <= end ? parseHead(new Uint8Array(buffer, payload + 4, arraysAt - payload - 4)) : null;
    yield head ? { head, arrays: new ArrayReader(buffer, arraysAt, end), end } : { damaged: true, end };
    at = end;
  }
}

/**
 * The JSON object of a record; null where it is none.
 * @param {Uint8Array} text
 */
function parseHead(text) {
  try {
    const head = JSON.parse(new TextDecoder().decode(text));
    return typeof head === "object" ? head : null;
  } catch {
    return null;
  }
}

/** Looks for whole records in bytes that may be damaged, or made to be slow to read. */
class Search {
  /** @param {ArrayBuffer} buffer */
  constructor(buffer) {
    this.view = new DataView(buffer);
    this.bytes = new Uint8Array(buffer);
    this.patience = 4 * this.bytes.length + 2 ** 20; // bytes whose checksum may be wrong
  }

  /**
   * Where a record says that it ends.
   * @param {number} at
   */
  declaredEnd(at) {
    return at + RECORD_HEADER_BYTES + this.view.getUint32(at, true);
  }

  /**
   * Where the record at a place ends; null where none is whole.
   * @param {number} at
   */
  endOfRecord(at) {
    const payload = at + RECORD_HEADER_BYTES;
    const end = this.declaredEnd(at);
    // zeros, as a computer that crashed leaves them, are no record
    if (end < payload + 4 || end > this.bytes.length || this.patience < 0) return null;
    if (crc32(this.bytes.subarray(payload, end)) === this.view.getUint32(at + 4, true)) return end;
    this.patience -= end - payload;
    return null;
  }

  /**
   * Where the first whole record at a place or later begins; null where there is none.
   * @param {number} start
   */
  nextRecord(start) {
    const before = RECORD_HEADER_BYTES + 4; // the JSON
    for (let at = start + before; this.patience >= 0; at++) {
      at = this.bytes.indexOf(TEXT_BEGINS[0], at);
      if (at < 0) return null;
      if (TEXT_BEGINS.every((byte, n) => this.bytes[at + n] === byte) && this.endOfRecord(at - before) !== null) return at - before;
    }
    return null;
  }
}

/** Hands out the arrays of a record one after the other. */
export class ArrayReader {
  /**
   * @param {ArrayBuffer} buffer
   * @param {number} at where the first array starts
   * @param {number} end of the record
   */
  constructor(buffer, at, end) {
    this.buffer = buffer;
    this.at = at;
    this.end = end;
  }

  /**
   * @param {number} size
   * @throws {RangeError} the record has not so many
   */
  bytes(size) {
    if (size > this.end - this.at) throw new RangeError(`The record has ${this.end - this.at} bytes, not ${size}.`);
    return this.buffer.slice(this.at, (this.at += size)); // a copy: arrays are not aligned in the file
  }

  /** @param {number} length */
  uint8(length) {
    return new Uint8Array(this.bytes(length));
  }

  /** @param {number} length */
  int8(length) {
    return new Int8Array(this.bytes(length));
  }

  /** @param {number} length */
  int32(length) {
    return new Int32Array(this.bytes(4 * length));
  }

  /** @param {number} length */
  float32(length) {
    return new Float32Array(this.bytes(4 * length));
  }

  /** @param {number} length */
  probabilities(length) {
    return Float32Array.from(new Uint16Array(this.bytes(2 * length)), (code) => code / PROBABILITY_SCALE);
  }
}

/**
 * Values by name. A name is whatever a user or a file calls something, `constructor` and `__proto__` among them.
 * @template Value
 * @param {Record<string, Value>} [values]
 * @returns {Record<string, Value>}
 */
export function byName(values = {}) {
  return Object.assign(Object.create(null), values);
}

/**
 * A look from its record, see isLook.
 * @param {any} head
 * @param {ArrayReader} arrays
 * @param {number} count images of the probe batch
 * @returns {Look}
 * @throws {RangeError} its arrays are longer than the record
 */
export function decodeLook(head, arrays, count) {
  /** @type {Record<string, QuantizedMaps>} */
  const maps = byName();
  for (const [method, shape] of /** @type {[string, number[]][]} */ (Object.entries(head.methods))) {
    const [rows, columns] = shape.slice(-2);
    const isColor = Boolean(head.colors?.includes(method));
    const planes = shape.length === 3 && !isColor ? shape[0] : 1;
    const codes = arrays.int8(count * (isColor ? 3 : planes) * rows * columns);
    const scales = arrays.float32(count * 2);
    maps[method] = { rows, columns, isColor, planes, codes, scales, evidence: shape.length === 3 && !isColor ? arrays.probabilities(count * planes) : null };
  }
  return {
    step: head.step,
    epoch: head.epoch,
    time: head.time,
    metrics: byName(head.metrics),
    maps,
    topK: head.top,
    topClasses: arrays.int32(count * head.top),
    topProbabilities: arrays.probabilities(count * head.top),
    labelProbabilities: arrays.probabilities(head.top ? count : 0),
    classIdx: head.class_idx ? arrays.int32(count) : null,
    values: head.values ? arrays.float32(count) : null,
    parts: head.parts ? decodeParts(head.parts, arrays, count) : null,
  };
}

/**
 * @param {[number, number]} size
 * @param {ArrayReader} arrays
 * @param {number} count
 * @returns {Parts}
 */
function decodeParts([rows, columns], arrays, count) {
  const overlaps = arrays.float32(count);
  return { rows, columns, overlaps, bits: new Uint8Array(arrays.bytes(count * Math.ceil((rows * columns) / 8))) };
}

/**
 * Whether a pixel of a row's prediction belongs to its part.
 * @param {Parts} parts
 * @param {number} imageIndex
 * @param {number} x
 * @param {number} y
 */
export function isPredicted({ rows, columns, bits }, imageIndex, x, y) {
  const at = y * columns + x;
  return Boolean((bits[imageIndex * Math.ceil((rows * columns) / 8) + (at >> 3)] >> (7 - (at & 7))) & 1);
}

/**
 * The largest value of a map, of either sign if `signed` or if it is of colors; 0 where the map is not finite.
 * @param {QuantizedMaps} maps
 * @param {number} imageIndex
 * @param {boolean} signed
 */
export function largestValue(maps, imageIndex, signed) {
  const largest = maps.scales[2 * imageIndex];
  if (Number.isNaN(largest)) return 0;
  return signed || maps.isColor ? Math.max(largest, maps.scales[2 * imageIndex + 1]) : largest;
}

/**
 * How many values a map has.
 * @param {QuantizedMaps} maps
 */
export const sizeOf = ({ rows, columns, isColor, planes = 1 }) => (isColor ? 3 : planes) * rows * columns;

/**
 * The values of one map, raw and signed; all NaN where the map was not finite.
 * @param {QuantizedMaps} maps
 * @param {number} imageIndex
 * @param {Float32Array} [values] to be written to
 * @returns {Float32Array} planes (3 if colors) × rows × columns
 */
export function dequantize(maps, imageIndex, values = new Float32Array(sizeOf(maps))) {
  const size = values.length;
  const [positive, negative] = [maps.scales[2 * imageIndex] / 127, maps.scales[2 * imageIndex + 1] / 127];
  // Which sign comes next cannot be foretold, and to choose by it would take several times as long.
  const [half, difference] = [(positive + negative) / 2, (positive - negative) / 2];
  const { codes } = maps;
  for (let k = 0, at = imageIndex * size; k < size; k++, at++) values[k] = codes[at] * half + Math.abs(codes[at]) * difference;
  return values;
}
