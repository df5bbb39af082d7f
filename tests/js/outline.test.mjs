// The borders of masks.

import assert from "node:assert/strict";
import { test } from "node:test";

import { borderLines } from "../../lightning_cam/tensorboard_plugin/static/outline.js";

/** The borders of a mask given as rows of # and dots, in pixels. */
function borders(...rows) {
  const [width, height] = [rows[0].length, rows.length];
  const lines = borderLines(width, height, (x, y) => rows[y][x] === "#");
  return lines.map((line) => line.map((value, n) => value * (n % 2 ? height : width)));
}

test("a box is four lines", () => {
  assert.deepEqual(borders("....", ".##.", ".##."), [[1, 1, 3, 1], [1, 3, 3, 3], [1, 1, 1, 3], [3, 1, 3, 3]]);
});

test("two boxes on one line are not joined", () => {
  assert.deepEqual(borders("#.#").slice(0, 2), [[0, 0, 1, 0], [2, 0, 3, 0]]);
});

test("a hole has a border, an empty mask has none", () => {
  assert.equal(borders("###", "#.#", "###").length, 8);
  assert.deepEqual(borders("..", ".."), []);
});
