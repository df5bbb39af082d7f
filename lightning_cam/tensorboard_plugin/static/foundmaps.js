// The maps that stand behind findings, see lightning_cam/timeline/found.py.

const FOUND_SIDE = 28; // cells a side, as lightning_cam/timeline/found.py has them

/** Maps of 28 × 28 shares of the evidence, positive, each by a number; kept as the bytes that they are stored in. */
export class FoundMaps {
  /**
   * @param {number[]} keys
   * @param {Uint8Array} codes
   * @param {Float32Array} largest the value that 255 stands for, of each map
   */
  constructor(keys, codes, largest) {
    this.keys = keys;
    this.codes = codes;
    this.largest = largest;
    this.side = FOUND_SIDE;
  }

  /**
   * @param {number} key
   * @returns {Float32Array | undefined}
   */
  get(key) {
    const n = this.keys.indexOf(key);
    if (n < 0) return undefined;
    const size = this.side ** 2;
    return Float32Array.from(this.codes.subarray(n * size, (n + 1) * size), (code) => (code / 255) * this.largest[n]);
  }

  /**
   * The largest value of a map, 0 where there is none.
   * @param {number} key
   */
  peak(key) {
    return this.largest[this.keys.indexOf(key)] || 0;
  }
}

/**
 * The mean maps of classes, the maps of validation images and their pictures as WebP that stand behind findings, see isFound.
 * @param {{ classes: number[], images: number[], pictures: number[], picture_bytes: number[] }} head
 * @param {import("./record.js").ArrayReader} arrays
 * @throws {RangeError} its arrays are longer than the record
 */
export function decodeFound({ classes, images, pictures, picture_bytes: lengths }, arrays) {
  const [codes, codesOfImages] = [classes, images].map((keys) => arrays.uint8(keys.length * FOUND_SIDE ** 2));
  const [largest, largestOfImages] = [classes, images].map((keys) => arrays.float32(keys.length));
  const encoded = new Map(pictures.map((image, n) => [image, arrays.uint8(lengths[n])]));
  return { means: new FoundMaps(classes, codes, largest), imageMaps: new FoundMaps(images, codesOfImages, largestOfImages), encoded };
}
