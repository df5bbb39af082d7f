// Which images are shown, and in which order.

import assert from "node:assert/strict";
import { test } from "node:test";

import { agreements, chosenImages, confusions } from "../../lightning_cam/tensorboard_plugin/static/filters.js";
import { dequantize } from "../../lightning_cam/tensorboard_plugin/static/record.js";
import { DEFAULTS } from "../../lightning_cam/tensorboard_plugin/static/state.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { assertClose, expected, recordBytes } from "./fixtures.mjs";

function timelineOf(name) {
  const timeline = new Timeline({ id: name, run: name, uid: name });
  timeline.feed(recordBytes(name));
  return timeline;
}

const whole = timelineOf("whole");
const python = expected("whole");
const chosen = (patch, timeline = whole) => chosenImages({ ...DEFAULTS, method: "hirescam", step: 20, ...patch }, timeline);
const where = (passes) => [0, 1, 2, 3].filter(passes);

test("images are found by what they are and what they are taken for", () => {
  const best = python.top_classes[2].map(([first]) => first);
  for (const predicted of new Set(best)) {
    assert.deepEqual(chosen({ predicted }), where((i) => best[i] === predicted));
    for (const label of new Set(python.labels)) {
      assert.deepEqual(chosen({ predicted, label }), where((i) => best[i] === predicted && python.labels[i] === label));
    }
  }
  const wrong = where((i) => python.labels[i] >= 0 && best[i] !== python.labels[i]);
  const pairs = confusions(whole, 2);
  assert.equal(pairs.reduce((sum, { count }) => sum + count, 0), wrong.length);
  for (const { label, predicted, count } of pairs) assert.equal(chosen({ label, predicted }).length, count);
});

test("images without evidence", () => {
  assert.deepEqual(chosen({ show: "missing", step: 10 }), [0]); // its map is not finite
  assert.deepEqual(chosen({ show: "missing" }), []);
  assert.deepEqual(chosen({ show: "missing", step: 10, method: "gradcam" }), [0, 1, 2, 3]); // did not run then
});

test("images of which the methods disagree have least evidence at the same places", () => {
  const scales = timelineOf("scales");
  const { maps } = scales.looks[0];
  const slow = where(() => true).map((i) => {
    const share = (method) => {
      const values = dequantize(maps[method], i).map((value) => Math.max(0, value));
      const sum = values.reduce((a, b) => a + b, 0);
      return [...values].map((value) => (sum ? value / sum : 0));
    };
    const own = share("positive");
    const shared = ["mixed", "constant", "empty"].map((method) => share(method).reduce((sum, value, k) => sum + Math.min(value, own[k]), 0));
    return (shared[0] + shared[1] + shared[2]) / 3;
  });
  assertClose(agreements(scales, 0, "positive"), slow);
  assert.deepEqual(chosen({ show: "disagree", step: 0, method: "positive" }, scales), [slow.indexOf(Math.min(...slow))]);
  assert.deepEqual(agreements(timelineOf("resumed"), 0, "hirescam"), [1, 1, 1, 1]);
});

test("what is sorted stays as it was at the step at which it was sorted", () => {
  const order = (t) => where(() => true).sort((a, b) => python.label_probability[t][a] - python.label_probability[t][b]);
  const sorted = (patch) => chosen({ sort: "probability", ...patch }).filter((i) => python.labels[i] >= 0);
  const known = (images) => images.filter((i) => python.labels[i] >= 0);
  assert.deepEqual(sorted({ step: 0, sortStep: 0 }), known(order(0)));
  assert.deepEqual(sorted({ step: 20, sortStep: 0 }), known(order(0)));
  assert.deepEqual(sorted({ step: 20 }), known(order(2)));
});
