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

test("the newest ones at or before a step count", () => {
  assert.deepEqual([0, 1, 2, 3, Infinity].map((step) => newestFound(timeline, step)?.step), [undefined, 1, 2, 2, 2]);
});

test("what says something else is left out", () => {
  const finding = { kind: "a", text: "b", status: "measured", since: null, classes: [], images: [], numbers: {} };
  assert.ok(isFound({ step: 1, findings: [finding] }));
  for (const changed of [{ text: 3 }, { since: "1" }, { images: [-1] }, { classes: null }]) {
    assert.ok(!isFound({ step: 1, findings: [{ ...finding, ...changed }] }), JSON.stringify(changed));
  }
  assert.ok(!isFound({ step: 1, findings: null }) && !isFound({ step: null, findings: [] }));
});
