// What is kept of the state over a reload.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { DEFAULTS, restoreState, saveState } from "../../lightning_cam/tensorboard_plugin/static/state.js";

/** A browser's storage; in Node.js there is none. */
function provideStorage(stored = {}) {
  globalThis.localStorage = { getItem: (key) => stored[key] ?? null, setItem: (key, text) => (stored[key] = text) };
}

afterEach(() => delete globalThis.localStorage);

test("what was saved is restored, under its key", () => {
  provideStorage();
  const state = { ...DEFAULTS, view: "film", method: "gradcam", step: 20, squareRoot: true, runs: ["a"] };
  saveState("logs", state);
  assert.deepEqual(restoreState("logs"), state);
  assert.deepEqual(restoreState("other"), DEFAULTS);
});

test("what is unknown, of another type or no JSON is left out", () => {
  provideStorage({ types: JSON.stringify({ opacity: "1", smooth: 0, size: 96, elsewhere: 1 }), broken: "{", none: "null" });
  assert.deepEqual(restoreState("types"), { ...DEFAULTS, size: 96 });
  assert.deepEqual(restoreState("broken"), DEFAULTS);
  assert.deepEqual(restoreState("none"), DEFAULTS);
});

test("without a storage the page does not remember", () => {
  saveState("logs", { ...DEFAULTS });
  assert.deepEqual(restoreState("logs"), DEFAULTS);
});
