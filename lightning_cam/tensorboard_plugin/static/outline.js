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
  const inside = (/** @type {number} */ x, /** @type {number} */ y) => x >= 0 && y >= 0 && x < width && y < height && covers(x, y);
  /** @type {[number, number, number, number][]} */
  const lines = [];
  for (let y = 0; y <= height; y++) {
    const across = stretches(width, (x) => inside(x, y) !== inside(x, y - 1));
    for (const [from, to] of across) lines.push([from / width, y / height, to / width, y / height]);
  }
  for (let x = 0; x <= width; x++) {
    const down = stretches(height, (y) => inside(x, y) !== inside(x - 1, y));
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
 * The stretches [from, to) of neighboring places that are on a border.
 * @param {number} length
 * @param {(place: number) => boolean} isBorder
 */
function* stretches(length, isBorder) {
  for (let from = 0; from < length; from++) {
    if (!isBorder(from)) continue;
    let to = from + 1;
    while (to < length && isBorder(to)) to++;
    yield [from, to];
    from = to;
  }
}
