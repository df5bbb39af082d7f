// What the slider marks.

import assert from "node:assert/strict";
import { test } from "node:test";

import { marksOf } from "../../lightning_cam/tensorboard_plugin/static/marks.js";
import { flips } from "../../lightning_cam/tensorboard_plugin/static/story.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { expected, recordBytes } from "./fixtures.mjs";

function timelineOf(name) {
  const timeline = new Timeline({ id: name, run: name, uid: name });
  timeline.feed(recordBytes(name));
  return timeline;
}

const ofKind = (marks, kind) => marks.filter((mark) => mark.kind === kind).map(({ step }) => step);

test("the greatest change, the best validation metric, the findings", () => {
  const { derived, steps } = expected("whole");
  const marks = marksOf(timelineOf("whole"), "hirescam", null);
  assert.equal(ofKind(marks, "change").length, 1);
  assert.ok(derived.hirescam && steps.slice(1).includes(ofKind(marks, "change")[0]));
  assert.deepEqual(marks.filter(({ kind }) => kind === "best"), [{ step: 20, kind: "best", text: "best val_loss: 0.25" }]); // less is better
  assert.deepEqual(ofKind(marksOf(timelineOf("found"), "hirescam", null), "found"), [2]);
});

test("turns of one image are all marked, of all images those at which many turn", () => {
  const timeline = timelineOf("whole");
  const turned = flips(timeline);
  for (const image of [0, 1, 2, 3]) {
    const steps = timeline.looks.filter((_, t) => turned[t].has(image)).map(({ step }) => step);
    assert.deepEqual(ofKind(marksOf(timeline, "hirescam", image), "turn"), steps);
  }
  const most = Math.max(...turned.map(({ size }) => size));
  const steps = timeline.looks.filter((_, t) => turned[t].size && 2 * turned[t].size >= most).map(({ step }) => step);
  assert.deepEqual(ofKind(marksOf(timeline, "hirescam", null), "turn"), steps);
});

test("a model that does not classify and logs nothing has no best look", () => {
  assert.deepEqual(ofKind(marksOf(timelineOf("unlabeled"), "hirescam", null), "best"), []);
});
