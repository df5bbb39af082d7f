// Reads the record that lightning_cam/timeline writes; lightning_cam/timeline/format.py describes the bytes.

import { outline } from "./outline.js";

const MAGIC = 0x4d41434c; // "LCAM"
const VERSION = 1;
const HEADER = 16;
const FRAME = 8;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ bytes[i]) & 255];
  return ~crc >>> 0;
}

/** One record, growing while its run goes on. */
export class Timeline {
  constructor({ id, run, uid }) {
    Object.assign(this, { id, uid, fullName: run, label: run, short: run }); // the page shortens them
    this.offset = 0; // where the next unread record starts in the file
    this.error = null;
    this.probe = null;
    this.images = []; // ImageBitmaps
    this.outlines = []; // Path2Ds around the objects, in units of the image's width and height
    this.looks = [];
    this.revision = 0; // grows whenever something was read
    this.cache = new Map();
  }

  get methods() {
    return [...new Set(this.looks.flatMap((look) => Object.keys(look.maps)))];
  }

  get count() {
    return this.probe ? this.probe.labels.length : 0;
  }

  /** Take the file's bytes from `this.offset` on; return whether there was anything new. */
  feed(buffer) {
    const view = new DataView(buffer);
    let at = 0;
    if (this.offset === 0) {
      if (buffer.byteLength < HEADER) return false;
      this.error = headerError(view);
      if (this.error) return true;
      at = HEADER;
    }
    const start = at;
    while (at + FRAME + 4 <= buffer.byteLength) {
      const length = view.getUint32(at, true);
      const body = at + FRAME;
      if (body + length > buffer.byteLength) break;
      if (crc32(new Uint8Array(buffer, body, length)) !== view.getUint32(at + 4, true)) break;
      const text = view.getUint32(body, true);
      const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, body + 4, text)));
      this.#add(head, new Taker(buffer, body + 4 + text));
      at = body + length;
    }
    if (at === start) return false;
    this.offset += at;
    this.revision++;
    this.cache.clear();
    return true;
  }

  #add(head, take) {
    if (head.kind === "probe") this.#addProbe(head, take);
    else if (head.kind === "look") this.#addLook(head, take);
    else if (head.kind === "metrics") {
      const look = this.looks.find(({ step }) => step === head.step);
      if (look) Object.assign(look.metrics, head.metrics);
    }
  }

  #addProbe(head, take) {
    this.probe = head;
    this.pictures = head.bytes.map((size) => new Blob([take.bytes(size)], { type: "image/webp" }));
    this.masks = head.region_bytes.map((size) => new Blob([take.bytes(size)], { type: "image/png" }));
    this.aspect = head.size[1] / head.size[0];
  }

  #addLook(head, take) {
    const count = this.count;
    const look = { step: head.step, epoch: head.epoch, time: head.time, metrics: head.metrics, maps: {}, top: head.top };
    for (const [method, [rows, columns]] of Object.entries(head.methods)) {
      const codes = take.array(Int8Array, count * rows * columns);
      look.maps[method] = { rows, columns, codes, scales: take.array(Float32Array, count * 2) };
    }
    if (head.top) {
      look.classes = take.array(Int32Array, count * head.top);
      look.shares = take.array(Uint16Array, count * head.top);
      look.own = take.array(Uint16Array, count);
    }
    look.explained = head.class_idx ? take.array(Int32Array, count) : null;
    while (this.looks.length && this.looks.at(-1).step >= look.step) this.looks.pop(); // a resumed run
    this.looks.push(look);
  }

  /** Decode the probe images once. */
  async decodeImages() {
    if (!this.images.length && this.pictures) {
      this.outlines = await Promise.all(this.masks.map(async (mask) => outline(await createImageBitmap(mask))));
      this.images = await Promise.all(this.pictures.map((picture) => createImageBitmap(picture)));
    }
  }

  className(index) {
    if (index < 0) return "?";
    return this.probe.class_names[index] ?? `class ${index}`;
  }

  /** Names of the classes that captions can speak of: the labels, and what was predicted at any look. */
  get spokenClasses() {
    return this.#cached("spoken classes", () => {
      const indices = new Set(this.probe.labels);
      for (const { top, classes } of this.looks) {
        for (let at = 0; top && at < classes.length; at += top) indices.add(classes[at]);
      }
      return [...indices].map((index) => this.className(index));
    });
  }

  /** What the model said: {best, share, label, right, own, top}; nulls where it is not known. */
  prediction(t, i) {
    const look = this.looks[t];
    const label = this.probe.labels[i];
    if (!look.top) return { best: null, share: null, label, right: null, own: null, top: [] };
    const top = Array.from({ length: look.top }, (_, k) => ({
      index: look.classes[i * look.top + k],
      share: look.shares[i * look.top + k] / 65535,
    }));
    const right = label < 0 ? null : top[0].index === label;
    return { best: top[0].index, share: top[0].share, label, right, own: label < 0 ? null : look.own[i] / 65535, top };
  }

  /** The newest look at or before `step`, or the first one. */
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

  #cached(key, compute) {
    if (!this.cache.has(key)) this.cache.set(key, compute());
    return this.cache.get(key);
  }

  /** For each image the largest value over all looks (of either sign, if `signed`). */
  peaks(method, signed) {
    return this.#cached(`peaks ${method} ${signed}`, () => {
      const peaks = new Float32Array(this.count);
      for (const { maps } of this.looks) {
        if (maps[method]) peaks.forEach((peak, i) => (peaks[i] = Math.max(peak, extent(maps[method], i, signed))));
      }
      return peaks;
    });
  }

  /** For each image how much its map changes from look to look: the mean of 1 - cosine. */
  drift(method) {
    return this.#cached(`drift ${method}`, () => {
      const series = this.driftSeries(method);
      return Float32Array.from({ length: this.count }, (_, i) => mean(series.map((own) => own[i])) || 0);
    });
  }

  /** For each look and image 1 - cosine between this map and the one before; NaN where there is none. */
  driftSeries(method) {
    return this.#cached(`drift series ${method}`, () => {
      const series = [];
      let before = null;
      for (const { maps } of this.looks) {
        const values = maps[method] ? Array.from({ length: this.count }, (_, i) => cells(maps[method], i)) : null;
        series.push(Float32Array.from({ length: this.count }, (_, i) => (before && values ? 1 - cosine(before[i], values[i]) : NaN)));
        before = values;
      }
      return series;
    });
  }
}

/** Hand out the arrays of a record one after the other. */
class Taker {
  constructor(buffer, at) {
    Object.assign(this, { buffer, at });
  }

  bytes(size) {
    return this.buffer.slice(this.at, (this.at += size));
  }

  array(Type, length) {
    return new Type(this.bytes(length * Type.BYTES_PER_ELEMENT)); // a copy: arrays are not aligned in the file
  }
}

function headerError(view) {
  if (view.getUint32(0, true) !== MAGIC) return "This file is not a CAM timeline.";
  const version = view.getUint32(4, true);
  if (version <= VERSION) return null;
  return `This timeline is written in version ${version} of the format, this page reads up to version ${VERSION}: upgrade lightning-cam where TensorBoard runs.`;
}

/** The largest value of a map, of either sign if `signed`; 0 where the map is not finite. */
export function extent(map, i, signed) {
  const largest = map.scales[2 * i];
  if (Number.isNaN(largest)) return 0;
  return signed ? Math.max(largest, map.scales[2 * i + 1]) : largest;
}

/** The values of one map, raw and signed; all NaN where the map was not finite. */
export function cells(map, i) {
  const size = map.rows * map.columns;
  const plus = map.scales[2 * i] / 127;
  const minus = map.scales[2 * i + 1] / 127;
  const values = new Float32Array(size);
  for (let k = 0, at = i * size; k < size; k++, at++) {
    const code = map.codes[at];
    values[k] = code * (code > 0 ? plus : minus);
  }
  return values;
}

function cosine(a, b) {
  let dot = 0;
  let aa = 0;
  let bb = 0;
  for (let k = 0; k < a.length; k++) {
    dot += a[k] * b[k];
    aa += a[k] * a[k];
    bb += b[k] * b[k];
  }
  return aa && bb ? dot / Math.sqrt(aa * bb) : NaN; // two maps without evidence: nothing to compare
}

export function mean(values) {
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
