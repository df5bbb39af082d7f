// How large the tiles are.

import assert from "node:assert/strict";
import { test } from "node:test";

import { CAPTION_HEIGHT, GAP, fittingSize } from "../../lightning_cam/tensorboard_plugin/static/tilesize.js";

const fits = ({ width, height, count, aspect }, size) => {
  const columns = Math.floor((width + GAP) / (size + GAP));
  return columns >= 1 && Math.ceil(count / columns) * (size / aspect + CAPTION_HEIGHT + GAP) - GAP <= height;
};

test("tiles are as large as lets all be in sight", () => {
  for (const room of [
    { width: 1200, height: 700, count: 16, aspect: 1, columns: null },
    { width: 2200, height: 1050, count: 16, aspect: 1, columns: null },
    { width: 1200, height: 700, count: 8, aspect: 1.5, columns: null },
  ]) {
    const size = fittingSize(room);
    assert.ok(fits(room, size) && (size === 480 || !fits(room, size + 24)), `${JSON.stringify(room)}: ${size}`);
  }
});

test("tiles that cannot all be in sight stay readable and fill the width", () => {
  const size = fittingSize({ width: 366, height: 500, count: 64, aspect: 1, columns: null });
  assert.equal(size, Math.floor((366 + GAP) / 2) - GAP);
  assert.ok(fittingSize({ width: 700, height: 300, count: 64, aspect: 1, columns: null }) >= 144);
});

test("columns share the width, within bounds", () => {
  const size = (columns, width) => fittingSize({ width, height: 600, count: 4 * columns, aspect: 1, columns });
  assert.deepEqual([size(3, 600), size(30, 600), size(2, 2000)], [Math.floor(614 / 3) - GAP, 104, 241]);
});

test("columns of a large window are as wide as lets two rows be in sight", () => {
  assert.equal(fittingSize({ width: 2300, height: 960, count: 24, aspect: 1, columns: 3 }), (960 + GAP) / 2 - CAPTION_HEIGHT - GAP);
  assert.equal(fittingSize({ width: 2300, height: 2000, count: 24, aspect: 1, columns: 3 }), 480);
});
