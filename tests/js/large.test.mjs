// Series, names and lists as large as they come, and names as hostile: none may take seconds, or fail.

import assert from "node:assert/strict";
import { test } from "node:test";

import { compareNatural, nameShortener, shortenNames } from "../../lightning_cam/tensorboard_plugin/static/names.js";
import { collectCharts, rangeOf, thinnedPoints, valueAt } from "../../lightning_cam/tensorboard_plugin/static/series.js";
import { DEFAULTS } from "../../lightning_cam/tensorboard_plugin/static/state.js";
import { readable } from "../../lightning_cam/tensorboard_plugin/static/text.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { allSteps, comparedRuns, countUntil } from "../../lightning_cam/tensorboard_plugin/static/views.js";

const MILLION = 1_000_000;
const SECONDS = 5; // where it was quadratic it was minutes
const measure = (text) => [...text].length;

function soon(compute) {
  const start = performance.now();
  const result = compute();
  assert.ok(performance.now() - start < 1000 * SECONDS, `took ${performance.now() - start} ms`);
  return result;
}

/** A record of one image without maps. */
function longTimeline(total) {
  const timeline = new Timeline({ id: "long", run: "long", uid: "0" });
  timeline.probe = { ...timeline.probe, labels: [0] };
  const [one, half] = [Int32Array.of(0), Float32Array.of(0.5)];
  timeline.looks = Array.from({ length: total }, (_, step) => ({
    step, epoch: 0, time: 0, metrics: { loss: step % 1000 }, maps: {}, topK: 1, topClasses: one, topProbabilities: half, labelProbabilities: half, classIdx: null,
  }));
  return timeline;
}

test("a million looks have charts", () => {
  const timeline = longTimeline(MILLION);
  const charts = soon(() => collectCharts([timeline], []));
  assert.deepEqual(charts.map(({ title, series }) => [title, series[0].points.length]), [
    ["probe accuracy", MILLION], ["label probability", MILLION], ["loss", MILLION],
  ]);
  const loss = charts[2].series;
  assert.deepEqual(rangeOf(loss), { low: 0, high: 999 });
  assert.equal(valueAt(loss[0].points, 123_456.5), 456);
  soon(() => {
    for (let n = 0; n < 100; n++) assert.equal(countUntil(allSteps([timeline]), n), n + 1);
  });
});

test("what is drawn of a line has its extremes, its ends and its order, and as many points as can be seen", () => {
  const points = Array.from({ length: MILLION }, (_, n) => [n, Math.sin(n / 1e5)]);
  points[654_321][1] = 50;
  points[123_456][1] = -50;
  const seen = soon(() => thinnedPoints(points, 480));
  assert.ok(seen.length <= 4 * 481);
  assert.deepEqual([seen[0], seen.at(-1)], [points[0], points.at(-1)]);
  assert.ok(seen.includes(points[654_321]) && seen.includes(points[123_456]));
  assert.ok(seen.every(([step], n) => !n || step > seen[n - 1][0]));
  assert.equal(thinnedPoints(points.slice(0, 100), 480).length, 100);
});

test("tens of thousands of classes are shortened as they are when each is compared with each", () => {
  const names = Array.from({ length: 21_841 }, (_, n) => `n${n % 7} a class with a name of some length, number ${n}`);
  const shorten = soon(() => nameShortener(names, 20, measure));
  assert.ok(names.every((name) => measure(shorten(name)) <= 20));
  assert.equal(shorten(names[21_840]), "n0 a cl…number 21840");
  const few = [...names.slice(0, 40), "another one that is like none of them"];
  const together = shortenNames(few, 20, measure);
  for (const name of few) {
    const letters = [...name].slice(0, 19).join("").trimEnd();
    const alike = few.some((other) => other !== name && other.startsWith(`${letters}…`.slice(0, (letters.length + 1) / 2)));
    assert.equal(together.get(name) !== `${letters}…`, alike);
  }
});

test("a thousand runs are sorted and chosen from", () => {
  const listed = Array.from({ length: 1000 }, (_, n) => ({ id: `version_${999 - n}`, modified: n }));
  const ids = soon(() => listed.map(({ id }) => id).sort(compareNatural));
  assert.deepEqual([ids[0], ids[999]], ["version_0", "version_999"]);
  assert.equal(soon(() => comparedRuns({ state: { ...DEFAULTS, runs: ids }, listed })).length, 1000);
});

test("names are shown on one line, cut, and leave the text around them as it is", () => {
  assert.equal(readable("a\n\tb\0c\u001b[31m"), "a��b�c�[31m");
  assert.equal(readable("\u202egnp.exe\u2066\u200f"), "gnp.exe");
  assert.equal(readable("half \ud83d"), "half �");
  assert.equal(readable("שלום · 猫 · 🐈‍⬛"), "שלום · 猫 · 🐈‍⬛");
  assert.equal(readable("<b>__proto__</b>"), "<b>__proto__</b>");
  const long = soon(() => readable("🐈".repeat(MILLION)));
  assert.equal(measure(long), 301);
  assert.ok(long.isWellFormed());
  assert.ok(readable("x".repeat(10_000)).length <= 301);
});
