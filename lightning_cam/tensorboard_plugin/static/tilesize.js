// How large the tiles are where nobody has said it: as large as fits the window, with all in sight if they can be.

export const GAP = 14; // CSS pixels between tiles, as in style.css
export const CAPTION_HEIGHT = 52; // CSS pixels below the picture
const LINE_HEIGHT = 17; // CSS pixels of a third line
const [LEAST, MOST] = [96, 480]; // CSS pixels of a tile's width
const COLUMN = /** @type {const} */ ([104, 240]); // the same, where each stands below its column's head: three fit a phone
const READABLE = 144; // tiles that cannot all be in sight are not made smaller than this

/**
 * @param {object} room
 * @param {number} room.width CSS pixels
 * @param {number} room.height
 * @param {number} room.count tiles
 * @param {number} room.aspect width over height of a picture
 * @param {boolean} [room.threeLines] whether captions have a third line
 * @param {number | null} room.columns where there are as many as that; null: as many as fit
 */
export function fittingSize({ width, height, count, aspect, columns, threeLines = false }) {
  const caption = CAPTION_HEIGHT + (threeLines ? LINE_HEIGHT : 0);
  const widthOf = (/** @type {number} */ n) => Math.floor((width + GAP) / n) - GAP;
  const heightOf = (/** @type {number} */ rows) => Math.floor(((height + GAP) / rows - caption - GAP) * aspect);
  if (columns) return clamp(widthOf(columns), COLUMN[0], clamp(heightOf(2), COLUMN[1], MOST)); // two rows in sight
  const heightFor = (/** @type {number} */ n) => heightOf(Math.ceil(count / n));
  let best = 0; // with all in sight
  for (let n = 1; n === 1 || widthOf(n) >= READABLE; n++) best = Math.max(best, Math.min(widthOf(n), heightFor(n), MOST));
  if (best >= READABLE) return best;
  const most = Math.max(1, Math.floor((width + GAP) / (READABLE + GAP)));
  return clamp(widthOf(most), LEAST, MOST);
}

/**
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}
