// The scales of the page against those of the pictures that the logger gets.

import assert from "node:assert/strict";
import { test } from "node:test";

import { activeColormap, describeValue, isSigned, startsAtSmallest, strengthOf, tileMap } from "../../lightning_cam/tensorboard_plugin/static/scale.js";
import { fullScale } from "../../lightning_cam/tensorboard_plugin/static/fullscale.js";
import { DEFAULTS } from "../../lightning_cam/tensorboard_plugin/static/state.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { assertClose, expected, recordBytes } from "./fixtures.mjs";

const timeline = new Timeline({ id: "scales", run: "scales", uid: "0" });
timeline.feed(recordBytes("scales"));
const scales = expected("scales"); // by method: looks × images × cells

function tile(lookIndex, imageIndex, method, more = {}) {
  return { timeline, lookIndex, imageIndex, method, referenceIndex: null, caption: "class", ...more };
}

function values(scale, ...place) {
  return [...tileMap({ ...DEFAULTS, scale }, [timeline], tile(...place)).values];
}

for (const [scale, key] of [["image", "per_image"], ["row", "over_time"], ["common", "common"]]) {
  test(`the scale "${scale}" is that of lightning_cam.render`, () => {
    for (const [method, looks] of Object.entries(scales[key])) {
      looks.forEach((look, t) => look.forEach((map, i) => assertClose(values(scale, t, i, method), map, `${method} ${t} ${i}`)));
    }
  });
}

test("signed maps keep their sign and their zero", () => {
  const { values } = tileMap({ ...DEFAULTS, signed: true }, [timeline], tile(0, 0, "mixed"));
  assertClose([...values], scales.signed);
});

test("a difference is of the two maps in units of their scale", () => {
  const state = { ...DEFAULTS, view: "diff", scale: "row" };
  const { values } = tileMap(state, [timeline], tile(1, 2, "positive", { referenceIndex: 0 }));
  assertClose([...values], scales.over_time.positive[1][2].map((value, k) => value - scales.over_time.positive[0][2][k]));
});

test("a map that says nothing is missing, with the reason and the methods that show something", () => {
  const missing = (...place) => tileMap(DEFAULTS, [timeline], tile(...place));
  const others = (...names) => ` Methods with evidence: ${names.join(", ")}.`;
  assert.deepEqual(missing(0, 0, "empty"), { missing: "no evidence", reason: `No positive evidence for what is explained.${others("positive", "mixed", "constant")}` });
  assert.deepEqual(missing(0, 0, "constant"), { missing: "no evidence", reason: `One value everywhere: no cell stands out.${others("positive", "mixed")}` });
  assert.ok(values("row", 0, 0, "constant").every((value) => value === 1));
  assert.equal(missing(0, 0, "elsewhere").missing, "not recorded");
  const difference = tile(0, 0, "empty", { referenceIndex: 1 });
  assert.equal(tileMap({ ...DEFAULTS, view: "diff" }, [timeline], difference).missing, "no evidence");
});

test("a map that is not finite says so, and names the class otherwise", () => {
  const whole = new Timeline({ id: "whole", run: "whole", uid: "0" });
  whole.feed(recordBytes("whole"));
  const reason = (method, image) => tileMap(DEFAULTS, [whole], { ...tile(1, image, method), timeline: whole }).reason;
  assert.equal(reason("hirescam", 0), "The map is not finite.");
});

test("the value under the pointer is the raw one, its share that of the scale", () => {
  const state = { ...DEFAULTS, scale: "common" };
  const map = tileMap(state, [timeline], tile(1, 3, "positive"));
  const { value, text } = describeValue(state, tile(1, 3, "positive"), map, 2, 1);
  assertClose(value, scales.raw_positive[1][3][2 * map.columns + 1]);
  assert.equal(text, `${Math.round(100 * scales.common.positive[1][3][2 * map.columns + 1])} % of the scale`);
});

test("of eight looks or more the 99th percentile gets the full color, and one outlier does not darken the rest", () => {
  const looks = Array.from({ length: 20 }, (_, step) => ({
    ...timeline.looks[1],
    step,
    maps: { one: { rows: 1, columns: 1, codes: Int8Array.from([127, 127]), scales: Float32Array.from([step ? 1 + step / 100 : 1000, 0, 0.5, 0]) } },
  }));
  const long = Object.assign(new Timeline({ id: "long", run: "long", uid: "1" }), { looks, probe: { ...timeline.probe, labels: [0, 0], hashes: ["a", "b"] } });
  const full = (hash) => fullScale([long], "one", false, hash);
  assertClose(full("a").value, 1.19); // the second largest of 20
  assertClose([full(null).value, full(null).lookIndex, full(null).imageIndex], [1.19, 19, 0]);
  assertClose(full("b").value, 0.5);
  const shown = tileMap({ ...DEFAULTS, scale: "row" }, [long], { ...tile(5, 0, "one"), timeline: long });
  assertClose([...shown.values], [1.05 / 1.19]);
  assert.equal(strengthOf(DEFAULTS, { ...tile(0, 0, "one"), timeline: long }), 1);
});

test("the strength of a map is its share of the image's largest value at any step", () => {
  const strengths = [0, 1].map((t) => strengthOf(DEFAULTS, tile(t, 1, "positive")));
  assertClose(strengths, [0, 1].map((t) => Math.max(...scales.over_time.positive[t][1])));
  assert.equal(strengthOf(DEFAULTS, tile(0, 1, "elsewhere")), 0);
  assert.equal(strengthOf(DEFAULTS, tile(0, 1, null)), 0);
});

test("a difference is never signed and always diverging", () => {
  const state = { ...DEFAULTS, view: "diff", signed: true };
  assert.deepEqual([isSigned(state), activeColormap(state), startsAtSmallest(state)], [false, "coolwarm", false]);
  assert.deepEqual([isSigned(DEFAULTS), activeColormap(DEFAULTS), startsAtSmallest(DEFAULTS)], [false, "inferno", true]);
});
