// Which tiles the views show.

import assert from "node:assert/strict";
import { test } from "node:test";

import { DEFAULTS } from "../../lightning_cam/tensorboard_plugin/static/state.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { allSteps, arrange, comparedRuns, shownTimelines } from "../../lightning_cam/tensorboard_plugin/static/views.js";
import { recordBytes } from "./fixtures.mjs";

/** Records as the page holds them, by id. */
function contentOf(names, patch = {}) {
  const listed = names.map((id, n) => ({ id, run: id, file: "cam", uid: id, bytes: 1, modified: n }));
  const timelines = new Map(listed.map((entry) => [entry.id, new Timeline(entry)]));
  for (const [id, timeline] of timelines) timeline.feed(recordBytes(id));
  const [first] = timelines.values();
  const state = { ...DEFAULTS, view: "grid", timeline: names[0], method: "hirescam", step: first.looks.at(-1).step, ...patch };
  return { state, listed, timelines };
}

test("the grid shows all images at the current look", () => {
  const { tiles, headings, note } = arrange(contentOf(["whole"], { step: 19 }));
  assert.deepEqual(tiles.map(({ imageIndex }) => imageIndex), [0, 1, 2, 3]);
  assert.ok(tiles.every(({ lookIndex, method, referenceIndex }) => lookIndex === 1 && method === "hirescam" && referenceIndex === null));
  assert.deepEqual([headings, note], [null, ""]);
});

test("a difference refers to the first look, or to the one chosen", () => {
  for (const [reference, expected] of [[null, 0], [10, 1]]) {
    const { tiles } = arrange(contentOf(["whole"], { view: "diff", reference }));
    assert.ok(tiles.every(({ lookIndex, referenceIndex }) => lookIndex === 2 && referenceIndex === expected));
  }
});

test("methods stand side by side, the image before them", () => {
  const { tiles, headings } = arrange(contentOf(["whole"], { view: "methods" }));
  assert.deepEqual(headings, [{ title: "image" }, { title: "hirescam" }, { title: "gradcam" }]);
  assert.deepEqual(tiles.slice(0, 3).map(({ method }) => method), [null, "hirescam", "gradcam"]);
  assert.equal(tiles.length, 3 * 4);
});

test("runs stand side by side, each at its own look, with the images that they share", () => {
  const { tiles, headings } = arrange(contentOf(["whole", "resumed", "scales"], { view: "runs", step: 20 }));
  assert.deepEqual(headings.map(({ title, step }) => [title, step]), [["image", undefined], ["whole", 20], ["resumed", 20], ["scales", 10]]);
  const [image, own, shared, none] = tiles;
  assert.deepEqual([image.method, own.lookIndex, shared.lookIndex], [null, 2, 2]);
  assert.equal(none, null); // that run looks at other images
});

test("runs without a look are not compared, and the newest four are at first", () => {
  const listed = ["a", "b", "c", "d", "e", "f"].map((id, n) => ({ id, empty: id === "f", modified: n }));
  assert.deepEqual(comparedRuns({ state: { ...DEFAULTS }, listed }), ["b", "c", "d", "e"]);
  assert.deepEqual(comparedRuns({ state: { ...DEFAULTS, runs: ["f", "d", "a"] }, listed }), ["a", "d"]);
});

test("steps of compared runs are those of all", () => {
  const content = contentOf(["whole", "resumed"], { view: "runs" });
  assert.deepEqual(allSteps(shownTimelines(content)), [0, 10, 20, 25]);
});

test("filters keep the images of a class, and those predicted right or wrong", () => {
  const indices = (patch) => arrange(contentOf(["whole"], patch)).tiles.map(({ imageIndex }) => imageIndex);
  assert.deepEqual(indices({ label: 1 }), [1]);
  const timeline = contentOf(["whole"]).timelines.get("whole");
  const correct = [0, 1, 2, 3].map((i) => timeline.prediction(2, i).correct);
  assert.deepEqual(indices({ show: "right" }), [0, 1, 2, 3].filter((i) => correct[i] === true));
  assert.deepEqual(indices({ show: "wrong" }), [0, 1, 2, 3].filter((i) => correct[i] === false));
  assert.equal(arrange(contentOf(["whole"], { label: 99 })).note, "No image matches the filters.");
});

test("the images that changed most are a quarter, and sorting by drift begins with them", () => {
  const drift = contentOf(["whole"]).timelines.get("whole").drift("hirescam");
  const order = [0, 1, 2, 3].sort((a, b) => drift[b] - drift[a]);
  const indices = (patch) => arrange(contentOf(["whole"], patch)).tiles.map(({ imageIndex }) => imageIndex);
  assert.deepEqual(indices({ show: "changed" }), order.slice(0, 1));
  assert.deepEqual(indices({ sort: "drift" }), order);
});

test("a long filmstrip is thinned out evenly and holds the first, the last and the current look", () => {
  const content = contentOf(["whole"], { view: "film", step: 101, image: 2 });
  const timeline = content.timelines.get("whole");
  timeline.looks = Array.from({ length: 200 }, (_, step) => ({ ...timeline.looks[0], step }));
  const { tiles, note } = arrange(content);
  const shown = tiles.map(({ lookIndex }) => lookIndex);
  assert.deepEqual([shown[0], shown.at(-1), shown.includes(101)], [0, 199, true]);
  assert.ok(shown.length <= 61 && Math.max(...shown.slice(1).map((t, n) => t - shown[n])) <= 4);
  assert.deepEqual(tiles.filter(({ current }) => current).map(({ lookIndex }) => lookIndex), [101]);
  assert.ok(tiles.every(({ imageIndex, caption }) => imageIndex === 2 && caption === "step"));
  assert.equal(note, `${shown.length} of 200 looks, evenly spaced`);
});

test("where nothing was recorded nothing is shown", () => {
  const content = { state: { ...DEFAULTS }, listed: [], timelines: new Map() };
  assert.deepEqual(arrange(content), { timelines: [], headings: null, tiles: [], note: "" });
});
