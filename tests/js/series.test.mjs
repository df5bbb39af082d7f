// The numbers of the charts.

import assert from "node:assert/strict";
import { test } from "node:test";

import { collectCharts, interpolatedAt, valueAt } from "../../lightning_cam/tensorboard_plugin/static/series.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { assertClose, expected, recordBytes } from "./fixtures.mjs";

function read(name) {
  const timeline = new Timeline({ id: name, run: name, uid: "0" });
  timeline.feed(recordBytes(name));
  return timeline;
}

test("each metric is one chart, with one line per method shown", () => {
  const charts = collectCharts([read("whole")], ["hirescam", "gradcam"]);
  const names = Object.fromEntries(charts.map(({ title, series }) => [title, series.map(({ name }) => name)]));
  assert.deepEqual(names, {
    "probe accuracy": [""],
    "label probability": [""],
    "attention entropy": ["block 0", "block 5", "block 11"], // no chart for each of many blocks
    val_loss: [""],
    entropy: ["hirescam", "gradcam", "random"], // chance last
    "drift since the last look": ["hirescam"], // gradcam has no two looks in a row
  });
});

test("the lines hold the logged values, without those that are not finite", () => {
  const charts = collectCharts([read("whole")], ["hirescam"]);
  const [{ points }] = charts.find(({ title }) => title === "val_loss").series;
  const { steps, metrics } = expected("whole");
  const finite = steps.map((step, t) => [step, metrics.val_loss[t]]).filter(([, value]) => value !== null);
  assert.equal(finite.length, 2);
  assertClose(points, finite);
});

test("probe accuracy is of the images with a label", () => {
  const [{ title, series }] = collectCharts([read("whole")], ["hirescam"]);
  const { labels, top_classes } = expected("whole");
  const known = [0, 1, 2, 3].filter((i) => labels[i] >= 0);
  const accuracy = top_classes.map((look) => known.filter((i) => look[i][0] === labels[i]).length / known.length);
  assert.equal(title, "probe accuracy");
  assertClose(series[0].points.map(([, value]) => value), accuracy);
});

test("of several runs each is a line, and chance is drawn once", () => {
  const [first, second] = [read("whole"), read("whole")];
  second.label = "second";
  const entropy = collectCharts([first, second], ["hirescam"]).find(({ title }) => title === "entropy");
  assert.deepEqual(entropy.series.map(({ name }) => name), ["whole", "random", "second"]);
});

test("of the blocks of several runs the last is shown", () => {
  const runs = [read("whole"), read("whole")];
  const charts = collectCharts(runs, ["hirescam"]).filter(({ title }) => title.includes("attention"));
  assert.deepEqual(charts.map(({ title, series }) => [title, series.length]), [["attention entropy, last block", 2]]);
  assertClose(charts[0].series[0].points.map(([, value]) => value), [1.1, 1.1]);
});

test("a value holds until the next one, a line goes straight to it", () => {
  const points = [[0, 1], [10, 3], [20, -1]];
  assert.deepEqual([-1, 0, 9, 10, 99].map((step) => valueAt(points, step)), [NaN, 1, 1, 3, -1]);
  assert.deepEqual([-1, 0, 5, 10, 15, 20, 99].map((step) => interpolatedAt(points, step)), [1, 1, 2, 3, 1, -1, -1]);
  assert.equal(interpolatedAt([[5, 2]], 9), 2);
});
