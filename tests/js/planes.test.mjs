// Records of images with planes, against what Python's reader makes of them; and which planes a tile shows.

import assert from "node:assert/strict";
import { test } from "node:test";

import { arePlanes, leadingPlanes, nearestPlane, planeWords, rankWords, sharesOf, shownPlanes } from "../../lightning_cam/tensorboard_plugin/static/planes.js";
import { dequantize } from "../../lightning_cam/tensorboard_plugin/static/record.js";
import { cellText } from "../../lightning_cam/tensorboard_plugin/static/tiles.js";
import { tileMap } from "../../lightning_cam/tensorboard_plugin/static/scale.js";
import { DEFAULTS } from "../../lightning_cam/tensorboard_plugin/static/state.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { assertClose, expected, recordBytes } from "./fixtures.mjs";

const timeline = new Timeline({ id: "run/planes.lcam", run: "run", uid: "0" });
timeline.feed(recordBytes("planes"));
const python = expected("planes");
const state = { ...DEFAULTS, view: "grid", method: "hirescam" };
const tileOf = (lookIndex, imageIndex, method = "hirescam") => ({ timeline, lookIndex, imageIndex, method, referenceIndex: null, caption: "class" });

test("maps and shares of planes are those of Python", () => {
  assert.equal(timeline.damaged, 0);
  python.maps.forEach((maps, t) => maps.forEach((map, i) => assertClose([...dequantize(timeline.looks[t].maps.hirescam, i)], map.flat(2), `look ${t}, image ${i}`)));
  python.evidence.forEach((shares, t) => shares.forEach((own, i) => assertClose(sharesOf(timeline, t, i, "hirescam"), own, "shares")));
  python.coarse.forEach((shares, t) => shares.forEach((own, i) => assertClose(sharesOf(timeline, t, i, "coarse"), own, "shares")));
});

test("a bag shows the sixteen instances with most evidence, in their order", () => {
  for (let row = 0; row < 8; row++) assert.deepEqual(shownPlanes(state, tileOf(row >> 2, row & 3)), python.order[row]);
  assert.deepEqual(shownPlanes({ ...state, plane: 8 }, tileOf(0, 0)), [3]); // number 8 has no picture: 7 is as near as 9
  assert.deepEqual(shownPlanes(state, { ...tileOf(0, 0), planes: [4] }), [4]);
});

test("a volume shows the slice with most evidence, the middle one where there is none, a video all frames", () => {
  const numbers = [3, 8, 13, 18];
  assert.deepEqual(leadingPlanes({ kind: "slice", count: 20, numbers }, [0.1, 0.2, 0.4, 0.3]), [2]);
  assert.deepEqual(leadingPlanes({ kind: "slice", count: 20, numbers }, [0, 0, 0, 0]), [2]);
  assert.deepEqual(leadingPlanes({ kind: "slice", count: 20, numbers }, null), [2]);
  assert.deepEqual(leadingPlanes({ kind: "frame", count: 20, numbers }, [0.1, 0.2, 0.4, 0.3]), [0, 1, 2, 3]);
  assert.equal(nearestPlane({ kind: "slice", count: 20, numbers }, 17), 3);
});

test("what is said of them", () => {
  const [first, second] = python.order[1];
  const percent = (k) => `${Math.round(100 * python.evidence[0][1][k])} %`;
  assert.equal(planeWords(state, tileOf(0, 1)), `instance ${2 * first + 1} · ${percent(first)}`);
  assert.ok(rankWords(tileOf(0, 1)).startsWith(`instances by evidence: ${2 * first + 1} (${percent(first)}), ${2 * second + 1} (${percent(second)})`));
  assert.equal(planeWords(state, tileOf(0, 3)), "instance 1"); // there is no evidence
  assert.equal(rankWords(tileOf(0, 3)), "");
});

test("each cell of a tile has the value of its plane", () => {
  const tile = tileOf(1, 2);
  const map = tileMap(state, [timeline], tile);
  assert.deepEqual([map.rows, map.columns, map.side], [12, 20, 4]);
  const [plane, row, column] = [python.order[6][5], 2, 3]; // the sixth stands in the second row and column
  const value = python.maps[1][2][plane][row][column];
  const told = cellText(state, tile, map, 3 + row, 5 + column);
  assert.ok(told.endsWith(`instance ${2 * plane + 1}, row 3, column 4`));
  assertClose([Number(told.split(" ")[0])], [Number(value.toPrecision(3))], "value");
});

test("planes that cannot be are refused", () => {
  const planes = { kind: "slice", count: 8, numbers: [1, 3] };
  assert.ok(arePlanes(planes));
  for (const changed of [{ kind: "slab" }, { count: 2 }, { count: 2 ** 40 }, { numbers: [] }, { numbers: [3, 1] }, { numbers: [0, 1] }, { numbers: "12" }]) assert.ok(!arePlanes({ ...planes, ...changed }));
  assert.ok(!arePlanes(null) && !arePlanes(3));
});
