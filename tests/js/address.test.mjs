// The state in the fragment of the address, and back.

import assert from "node:assert/strict";
import { test } from "node:test";

import { decodeState, encodeState } from "../../lightning_cam/tensorboard_plugin/static/address.js";
import { DEFAULTS } from "../../lightning_cam/tensorboard_plugin/static/state.js";

const HOSTILE = "</script>&step=3#%00\u202e 名前/+";

test("what is shown comes back from its address, whatever runs are called", () => {
  const shown = { timeline: HOSTILE, method: "gradcam++", step: 1050, follow: false, scale: "row", signed: true };
  for (const patch of [
    { view: "grid", label: 3, show: "wrong", sort: "drift" },
    { view: "film", image: 7 },
    { view: "diff", reference: -1 },
    { view: "runs", runs: ["a", HOSTILE], align: "epoch" },
    { view: "pair", otherRun: HOSTILE, otherMethod: "gae", otherStep: 20, swipe: true },
  ]) {
    const state = { ...DEFAULTS, ...shown, ...patch };
    const text = encodeState(state);
    assert.match(text, /^[\w=&%+.*-]*$/);
    assert.deepEqual({ ...state, ...decodeState(`#${text}`) }, state);
  }
});

test("a page that follows a run names no step", () => {
  const text = encodeState({ ...DEFAULTS, view: "grid", step: 30, follow: true });
  assert.equal(text, "view=grid");
  assert.equal(decodeState(text).follow, true);
});

test("what is not named has its default, not what the visitor chose before", () => {
  const state = decodeState("view=grid&step=10");
  assert.deepEqual([state.label, state.show, state.sort, state.scale, state.signed], [null, "all", "index", "image", false]);
  assert.ok(!("opacity" in state) && !("size" in state));
});

test("what cannot be so is left out, and an address that says nothing is none", () => {
  for (const text of ["", "#", "elsewhere=1", "view=toString", "step=1e9", "image=-1", `view=grid&run=${"x".repeat(2e4)}`]) {
    assert.equal(decodeState(text), null, text.slice(0, 30));
  }
  const state = decodeState("view=film&image=x&step=NaN&scale=constructor&sort=&show=wrong");
  assert.deepEqual([state.view, state.image, state.step, state.scale, state.sort, state.show], ["film", 0, null, "image", "index", "wrong"]);
});
