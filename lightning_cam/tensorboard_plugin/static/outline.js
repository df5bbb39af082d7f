// The line around what a mask covers.

/**
 * The borders between what is inside of a mask and what is not, as lines [x, y, x, y] in units of its width and height.
 * Neighboring pieces of border are joined to one line, so that a box is four lines.
 * @param {number} width
 * @param {number} height
 * @param {(x: number, y: number) => boolean} covers tells of a pixel of the mask whether it is inside
 * @returns {[number, number, number, number][]}
 */
export function borderLines(width, height, covers) {
  const wide = width + 2; // around the mask there is nothing
  const mask = new Uint8Array(wide * (height + 2));
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) mask[(y + 1) * wide + x + 1] = covers(x, y) ? 1 : 0;
  /** @type {[number, number, number, number][]} */
  const lines = [];
  for (let y = 0; y <= height; y++) {
    const across = stretches(mask, width, y * wide + 1, 1, wide);
    for (const [from, to] of across) lines.push([from / width, y / height, to / width, y / height]);
  }
  for (let x = 0; x <= width; x++) {
    const down = stretches(mask, height, wide + x, wide, 1);
    for (const [from, to] of down) lines.push([x / width, from / height, x / width, to / height]);
  }
  return lines;
}

/**
 * The same lines as a path, in the same units.
 * @param {[number, number, number, number][]} lines
 */
export function pathOf(lines) {
  const path = new Path2D();
  for (const [fromX, fromY, toX, toY] of lines) {
    path.moveTo(fromX, fromY);
    path.lineTo(toX, toY);
  }
  return path;
}

/**
 * The stretches [from, to) of neighboring places at which a mask differs from its neighbor: the borders of a row or column.
 * @param {Uint8Array} mask
 * @param {number} length of the row
 * @param {number} at where it begins
 * @param {number} step from place to place
 * @param {number} beside from a place to its neighbor
 */
function stretches(mask, length, at, step, beside) {
  /** @type {[from: number, to: number][]} */
  const found = [];
  for (let place = 0, since = -1; place <= length; place++, at += step) {
    const isBorder = place < length && mask[at] !== mask[at + beside];
    if (isBorder && since < 0) since = place;
    if (isBorder || since < 0) continue;
    found.push([since, place]);
    since = -1;
  }
  return found;
}
