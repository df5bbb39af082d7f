// Numbers as text.

import assert from "node:assert/strict";
import { test } from "node:test";

import { formatNumber, formatPercent } from "../../lightning_cam/tensorboard_plugin/static/text.js";

test("numbers as people read them", () => {
  const texts = { "–": null, "1,234,567": 1234567, 0: 0, 0.0123: 0.01234, "-2.5": -2.5, "1.23e-7": 1.234e-7, "1.50e+6": 1499999.5 };
  for (const [text, value] of Object.entries(texts)) assert.equal(formatNumber(value), text);
  assert.equal(formatNumber(NaN), "–");
});

test("only what is certain is 100 %, only what is impossible 0 %", () => {
  const probabilities = [0, 1e-6, 0.004, 0.005, 0.5, 0.994, 0.995, 0.999999, 1];
  assert.deepEqual(probabilities.map(formatPercent), ["0 %", "<1 %", "<1 %", "1 %", "50 %", "99 %", ">99 %", ">99 %", "100 %"]);
});
