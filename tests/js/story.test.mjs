// What a training comes to, against what Python's reader makes of the same record.

import assert from "node:assert/strict";
import { test } from "node:test";

import { linkedParts } from "../../lightning_cam/tensorboard_plugin/static/findings.js";
import {
  accuracies,
  changes,
  columnsOf,
  flips,
  formatDuration,
  lookOfColumn,
  standingOut,
  verdicts,
} from "../../lightning_cam/tensorboard_plugin/static/story.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { expected, recordBytes } from "./fixtures.mjs";

function timelineOf(name) {
  const timeline = new Timeline({ id: name, run: name, uid: name });
  timeline.feed(recordBytes(name));
  return timeline;
}

test("right and wrong, and where it turned", () => {
  const { labels, top_classes } = expected("whole");
  const right = top_classes.map((look) => labels.map((label, i) => (label < 0 ? null : look[i][0] === label)));
  const timeline = timelineOf("whole");
  assert.deepEqual(verdicts(timeline), right);
  const turned = right.map((row, t) => (t ? row.flatMap((verdict, i) => (verdict !== null && verdict !== right[t - 1][i] ? [i] : [])) : []));
  assert.deepEqual(flips(timeline).map((images) => [...images]), turned);
  assert.equal(accuracies(timeline)[0], right[0].filter(Boolean).length / right[0].filter((verdict) => verdict !== null).length);
});

test("what became better: the probe's accuracy, then what the model logged, without the callback's own", () => {
  assert.deepEqual(changes(timelineOf("whole")).map(({ title }) => title), ["accuracy on 4 probe images", "val_loss"]);
  const [, loss] = changes(timelineOf("whole"));
  assert.deepEqual([loss.first, loss.last], [1.5, 0.25]);
  assert.deepEqual(changes(timelineOf("unlabeled")), []);
});

test("columns hold all looks; a turn stands for its column", () => {
  assert.deepEqual(columnsOf(3, 10), [[0, 0], [1, 1], [2, 2]]);
  assert.deepEqual(columnsOf(10, 3), [[0, 2], [3, 5], [6, 9]]);
  const turned = (t) => [1, 4].includes(t);
  assert.deepEqual(columnsOf(10, 3).map((column) => lookOfColumn(column, turned)), [1, 4, 9]);
  assert.deepEqual(columnsOf(10, 3).map((column) => lookOfColumn(column, () => false)), [0, 5, 9]);
});

test("classes whose map is like no other come first", () => {
  const maps = { keys: [4, 7, 9], get: (key) => Float32Array.from(key === 7 ? [9, 0] : [1, 1]) };
  assert.deepEqual(standingOut(maps, 2), [7, 4]);
});

test("sentences are linked where they name a step or a class, and nowhere else", () => {
  const parts = (text, classes) => linkedParts(text, classes).map((part) => (typeof part === "string" ? part : part.step ?? `class ${part.label}`));
  assert.deepEqual(parts("Class 3: 3 % in 3 cells, since step 1,061.", [[3, "class 3"]]), ["Class ", "class 3", ": 3 % in 3 cells, since step ", 1061, "."]);
  assert.deepEqual(parts("8 is mistaken for 3 in 8 of 30 images at step 3.", [[8, "8"], [3, "3"]]), ["class 8", " is mistaken for ", "class 3", " in 8 of 30 images at step ", 3, "."]);
  assert.deepEqual(parts("8 is taken for 3 in 8 of 30 images.", [[8, "8"], [3, "3"]]), ["class 8", " is taken for ", "class 3", " in 8 of 30 images."]); // an older record
  assert.deepEqual(parts("between steps 5 and 60; then", []), ["between steps ", 5, " and ", 60, "; then"]);
  assert.deepEqual(parts("Class a+(b: concat a+(b.", [[0, "a+(b"]]), ["Class ", "class 0", ": concat ", "class 0", "."]);
  assert.deepEqual(parts("Class cat: a category of cats", [[1, "cat"]]), ["Class ", "class 1", ": a category of cats"]);
  for (const name of ["", "\\", "[", "$^", "<b>", "\u{1f600}", "step 3"]) assert.equal(linkedParts(`Class ${name}: x`, [[0, name]]).map((part) => part.text ?? part).join(""), `Class ${name}: x`);
});

test("times are said as people say them", () => {
  assert.deepEqual([4, 89, 90, 3600, 5400, 90000, 260000].map(formatDuration), ["4 s", "89 s", "2 min", "60 min", "1 h 30 min", "25 h 0 min", "3 days"]);
});
