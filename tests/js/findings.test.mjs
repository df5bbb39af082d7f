// What was found, against what Python's reader makes of the same record.

import assert from "node:assert/strict";
import { test } from "node:test";

import { newestFound } from "../../lightning_cam/tensorboard_plugin/static/findings.js";
import { isFound } from "../../lightning_cam/tensorboard_plugin/static/heads.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { expected, recordBytes } from "./fixtures.mjs";

const timeline = new Timeline({ id: "run/cam.lcam", run: "run", uid: "0" });
timeline.feed(recordBytes("found"));

test("findings belong to the look of their step", () => {
  const found = timeline.looks.filter(({ findings }) => findings);
  assert.deepEqual(found.map(({ step, findings }) => ({ step, findings })), expected("found"));
  assert.deepEqual(found.map(({ step }) => step), [1, 2]);
  assert.equal(timeline.damaged, 0);
});

test("mean maps of classes are kept, and of the newest ones the maps of images", () => {
  const [, first, second] = [0, 1, 2].map((t) => timeline.looks.find(({ step }) => step === t));
  assert.deepEqual([first.means.keys, first.imageMaps], [[1], undefined]);
  assert.deepEqual([second.means.keys, second.imageMaps.keys], [[1], [0, 5]]);
  assert.deepEqual([...timeline.foundPictures.keys()], [5]);
  assert.equal(new TextDecoder().decode(timeline.foundPictures.get(5).slice(8, 12)), "WEBP");
  assert.deepEqual([...second.means.get(1)], Array(28 * 28).fill(1));
  assert.equal(second.means.get(0), undefined);
  assert.equal(second.means.peak(1), 1);
});

test("the newest ones at or before a step count", () => {
  assert.deepEqual([0, 1, 2, 3, Infinity].map((step) => newestFound(timeline, step)?.step), [undefined, 1, 2, 2, 2]);
});

test("what says something else is left out", () => {
  const maps = { classes: [1], images: [0, 1], pictures: [1], picture_bytes: [9] };
  const finding = { kind: "a", text: "b", status: "measured", since: null, classes: [], images: [], numbers: {} };
  assert.ok(isFound({ step: 1, findings: [finding], ...maps }));
  for (const changed of [{ text: 3 }, { since: "1" }, { images: [-1] }, { classes: null }]) {
    assert.ok(!isFound({ step: 1, findings: [{ ...finding, ...changed }], ...maps }), JSON.stringify(changed));
  }
  for (const changed of [{ classes: ["a"] }, { images: [-1] }, { images: undefined }, { pictures: [] }, { picture_bytes: [-1] }]) {
    assert.ok(!isFound({ step: 1, findings: [finding], ...maps, ...changed }), JSON.stringify(changed));
  }
  assert.ok(!isFound({ step: 1, findings: null, ...maps }) && !isFound({ step: null, findings: [], ...maps }));
});
