// Maps of colors: read, drawn as they are, compared with another look; and records of them that cannot be.

import assert from "node:assert/strict";
import { test } from "node:test";

import { agreements } from "../../lightning_cam/tensorboard_plugin/static/filters.js";
import { isLook } from "../../lightning_cam/tensorboard_plugin/static/heads.js";
import { dequantize } from "../../lightning_cam/tensorboard_plugin/static/record.js";
import { describeValue, strengthOf, tileMap } from "../../lightning_cam/tensorboard_plugin/static/scale.js";
import { DEFAULTS } from "../../lightning_cam/tensorboard_plugin/static/state.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { assertClose, expected, recordBytes } from "./fixtures.mjs";

const timeline = new Timeline({ id: "run/colored.lcam", run: "run", uid: "0" });
timeline.feed(recordBytes("colored"));
const colors = expected("colored"); // looks, images, channels, rows, columns
const tile = (lookIndex, imageIndex, method = "pca") => ({ timeline, lookIndex, imageIndex, method, referenceIndex: null });

test("colors are read as Python reads them, and maps of heat beside them", () => {
  assert.equal(timeline.damaged, 0);
  assert.deepEqual(timeline.methods, ["hirescam", "pca"]);
  colors.forEach((look, t) => look.forEach((image, i) => assertClose([...dequantize(timeline.looks[t].maps.pca, i)], image.flat(2))));
  assert.equal(tileMap(DEFAULTS, [timeline], tile(0, 0, "hirescam")).isColor, undefined);
});

test("colors have no scale: every setting shows the same", () => {
  for (const state of [DEFAULTS, { ...DEFAULTS, scale: "common" }, { ...DEFAULTS, signed: true }]) {
    const { values, rows, columns, isColor } = tileMap(state, [timeline], tile(1, 2));
    assertClose([...values, rows, columns], [...colors[1][2].flat(2), 3, 5]);
    assert.equal(isColor, true);
  }
  assert.equal(strengthOf(DEFAULTS, tile(0, 0)), 0);
  const [red, green, blue] = colors[0][1].map((channel) => `${Math.round(50 * (channel[2][4] + 1))} %`);
  const { value, text } = describeValue(DEFAULTS, tile(0, 1), tileMap(DEFAULTS, [timeline], tile(0, 1)), 2, 4);
  assert.deepEqual([value, text], [null, `red ${red}, green ${green}, blue ${blue}`]);
});

test("a difference is how far each color has moved, 1 from corner to corner", () => {
  const { values, isColor } = tileMap({ ...DEFAULTS, view: "diff" }, [timeline], { ...tile(1, 0), referenceIndex: 0 });
  const distances = [0, 1, 2].flatMap((row) =>
    [0, 1, 2, 3, 4].map((column) => Math.hypot(...[0, 1, 2].map((n) => colors[1][0][n][row][column] - colors[0][0][n][row][column])) / Math.sqrt(12)),
  );
  assertClose([...values], distances);
  assert.equal(isColor, undefined);
});

test("colors that are not there are said", () => {
  assert.match(tileMap(DEFAULTS, [timeline], tile(0, 3)).reason, /not finite/);
  assert.match(tileMap(DEFAULTS, [timeline], tile(1, 3)).reason, /All features are alike/);
  assert.deepEqual(agreements(timeline, 0, "pca"), [1, 1, 1, 1]); // heat and colors do not agree or disagree
});

test("a look whose shapes are no maps is left out", () => {
  const look = { step: 0, epoch: 0, time: 0, metrics: {}, top: 0 };
  assert.ok(isLook({ ...look, methods: { a: [2, 2], b: [3, 2, 2] }, colors: ["b"] }));
  for (const [methods, colors] of [[{ b: [3, 2, 2] }, undefined], [{ b: [2, 2] }, ["b"]], [{ b: [2, 2, 2] }, ["b"]], [{ b: [2, 2] }, "x"], [{ b: [2, 2] }, [1]]]) {
    assert.equal(isLook({ ...look, methods, colors }), false);
  }
});
