// Decodes the pictures in a record with what the browser has for that.

import { borderLines, pathOf } from "./outline.js";
import { coverPlane } from "./planes.js";

/** @typedef {import("./timeline.js").Timeline} Timeline */

/**
 * Decode the probe images of a record, and the masks of the objects in them, once.
 * @param {Timeline} timeline
 */
export async function decodePictures(timeline) {
  if (timeline.images.length) return;
  const { encodedImages, encodedRegions } = timeline;
  timeline.masks = await Promise.all(encodedRegions.map((bytes) => decode(bytes, "image/png")));
  const images = await Promise.all(encodedImages.map((bytes) => decode(bytes, "image/webp")));
  const { planes } = timeline.probe;
  if (planes) timeline.planePictures = await Promise.all(images.map((image) => apart(image, planes.numbers.length)));
  timeline.images = images;
}

/**
 * The pictures of planes that stand side by side in one, as many in a row as the root of their number.
 * @param {ImageBitmap} image
 * @param {number} count
 */
function apart(image, count) {
  const columns = Math.ceil(Math.sqrt(count));
  const [width, height] = [Math.floor(image.width / columns), Math.floor(image.height / Math.ceil(count / columns))];
  if (!width || !height) return Array.from({ length: count }, () => image); // gray, as it is damaged
  return Promise.all(Array.from({ length: count }, (_, k) => createImageBitmap(image, (k % columns) * width, Math.floor(k / columns) * height, width, height)));
}

/**
 * The picture that stands for an image where there is room for a small one.
 * @param {Timeline} timeline
 * @param {number} imageIndex
 * @param {string | null} method
 */
export function coverOf(timeline, imageIndex, method) {
  return timeline.planePictures[imageIndex]?.[coverPlane(timeline, imageIndex, method)] ?? timeline.images[imageIndex];
}

/**
 * The outline of the object in an image; undefined where there is none. It is drawn when it is first asked for: most views
 * need a few of them, the first one none.
 * @param {Timeline} timeline
 * @param {number} imageIndex
 * @returns {Path2D | undefined} in units of the image's width and height
 */
export function outlineIn(timeline, imageIndex) {
  const mask = timeline.masks[imageIndex];
  if (mask) timeline.outlines[imageIndex] ??= outlineOf(mask);
  return timeline.outlines[imageIndex];
}

/**
 * A picture; gray where its bytes are none.
 * @param {BlobPart} bytes
 * @param {string} type
 */
export async function decode(bytes, type) {
  try {
    return await createImageBitmap(new Blob([bytes], { type }));
  } catch {
    return createImageBitmap(new ImageData(new Uint8ClampedArray([128, 128, 128, 255]), 1, 1));
  }
}

/**
 * A path along the borders of a mask's white pixels, in units of its width and height.
 * @param {ImageBitmap} mask
 */
function outlineOf(mask) {
  const { width, height } = mask;
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(width, height).getContext("2d"));
  context.drawImage(mask, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return pathOf(borderLines(width, height, (x, y) => data[4 * (y * width + x)] > 127));
}
