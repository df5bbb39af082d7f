// Animated WebP of single pictures, see https://developers.google.com/speed/webp/docs/riff_container.

/**
 * @param {ArrayBuffer[]} frames still pictures in WebP, all of one size
 * @param {number} width pixels
 * @param {number} height
 * @param {number} duration milliseconds of a frame
 * @returns {Uint8Array}
 * @throws {Error} a frame is no WebP
 */
export function animatedWebp(frames, width, height, duration) {
  const size = [...uint24(width - 1), ...uint24(height - 1)];
  const parts = [chunk("VP8X", Uint8Array.from([0b10, 0, 0, 0, ...size])), chunk("ANIM", Uint8Array.from([255, 255, 255, 255, 0, 0]))];
  for (const frame of frames) {
    const head = Uint8Array.from([0, 0, 0, 0, 0, 0, ...size, ...uint24(Math.round(duration)), 0b10]); // drawn over the last
    parts.push(chunk("ANMF", joined([head, ...picturesIn(frame)])));
  }
  const body = joined([ascii("WEBP"), ...parts]);
  return joined([ascii("RIFF"), uint32(body.length), body]);
}

/**
 * The chunks of a still picture that hold its pixels.
 * @param {ArrayBuffer} file
 */
function picturesIn(file) {
  const bytes = new Uint8Array(file);
  const view = new DataView(file);
  const name = (/** @type {number} */ at) => String.fromCharCode(...bytes.subarray(at, at + 4));
  if (file.byteLength < 12 || name(0) !== "RIFF" || name(8) !== "WEBP") throw new Error("This browser cannot write WebP.");
  const parts = [];
  for (let at = 12; at + 8 <= bytes.length; ) {
    const end = at + 8 + view.getUint32(at + 4, true);
    if (["VP8 ", "VP8L", "ALPH"].includes(name(at))) parts.push(chunk(name(at), bytes.subarray(at + 8, end)));
    at = end + (end % 2);
  }
  return parts;
}

/**
 * @param {string} name
 * @param {Uint8Array} data
 */
function chunk(name, data) {
  return joined([ascii(name), uint32(data.length), data, new Uint8Array(data.length % 2)]);
}

/** @param {string} text */
const ascii = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));

/** @param {number} value */
const uint24 = (value) => [value & 255, (value >> 8) & 255, (value >> 16) & 255];

/** @param {number} value */
const uint32 = (value) => Uint8Array.from([...uint24(value), value >>> 24]);

/** @param {Uint8Array[]} parts */
function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
