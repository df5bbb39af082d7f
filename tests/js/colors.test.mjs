// The colormaps against matplotlib's, and how opaque they are.

import assert from "node:assert/strict";
import { test } from "node:test";

import { DIVERGING, SEQUENTIAL, gradient, isDiverging, lineStyle, overlayTable } from "../../lightning_cam/tensorboard_plugin/static/colors.js";
import { expected } from "./fixtures.mjs";

const { controls, colors } = expected("colors");
const WHOLE = { opacity: 1, threshold: 0, squareRoot: false };

/** [red, green, blue, alpha] of each of the 256 colors. */
function rgba(table) {
  const bytes = new Uint8ClampedArray(table.buffer);
  return Array.from({ length: 256 }, (_, n) => [...bytes.subarray(4 * n, 4 * n + 4)]);
}

for (const name of [...SEQUENTIAL, ...DIVERGING]) {
  test(`${name} has matplotlib's control points`, () => {
    const stops = gradient(name).match(/#[0-9a-f]{6}/g);
    const parsed = stops.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    assert.deepEqual(parsed, controls[name]);
  });

  test(`${name} is matplotlib's between its control points as well`, () => {
    const table = rgba(overlayTable(name, WHOLE));
    const differences = table.flatMap((color, n) => colors[name][n].map((value, channel) => Math.abs(value - color[channel])));
    // 17 control points stand for 256 colors: most in cividis, whose blue has a sharp bend
    assert.ok(Math.max(...differences) <= 11);
    assert.ok(differences.reduce((a, b) => a + b) / differences.length <= 1.1);
  });
}

test("a sequential colormap is as opaque as its value is large", () => {
  const alphas = rgba(overlayTable("inferno", { ...WHOLE, opacity: 0.5 })).map(([, , , alpha]) => alpha);
  assert.deepEqual([alphas[0], alphas[51], alphas[255]], [0, 26, 128]); // 0, 0.2 and 1 of half opaque
});

test("a diverging colormap is clear in the middle and opaque at both ends", () => {
  const alphas = rgba(overlayTable("coolwarm", WHOLE)).map(([, , , alpha]) => alpha);
  assert.deepEqual([alphas[0], alphas[127], alphas[128], alphas[255]], [255, 0, 0, 255]);
  assert.deepEqual(alphas, [...alphas].reverse());
});

test("what is below the threshold is clear", () => {
  const alphas = rgba(overlayTable("viridis", { ...WHOLE, threshold: 0.5 })).map(([, , , alpha]) => alpha);
  assert.equal(alphas.findIndex((alpha) => alpha > 0), 128); // 127 / 255 is below one half
});

test("with the square root a quarter has the color and the opacity of a half", () => {
  for (const [name, quarter, half] of [["inferno", 64, 128], ["coolwarm", 160, 192], ["coolwarm", 95, 63]]) {
    const plain = rgba(overlayTable(name, WHOLE))[half];
    const rooted = rgba(overlayTable(name, { ...WHOLE, squareRoot: true }))[quarter];
    plain.forEach((value, channel) => assert.ok(Math.abs(value - rooted[channel]) <= 2));
  }
});

test("only diverging colormaps are diverging", () => {
  assert.deepEqual([...SEQUENTIAL, ...DIVERGING].filter(isDiverging), DIVERGING);
});

test("no two of the first forty lines look alike", () => {
  const styles = Array.from({ length: 40 }, (_, n) => JSON.stringify(lineStyle(n)));
  assert.equal(new Set(styles).size, 40);
});
