// What tests/review/test_javascript.py has written for these tests: records, and what Python makes of them.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const folder = process.env.FIXTURES;
if (!folder) throw new Error("Run these tests with `pytest tests/review/test_javascript.py`: it writes the records that they read.");

/** A JSON file; null stands for NaN. */
export function expected(name) {
  return JSON.parse(readFileSync(`${folder}/${name}.json`, "utf-8"));
}

/** The bytes of a record, in a buffer of their own. */
export function recordBytes(name) {
  return Uint8Array.from(readFileSync(`${folder}/${name}.lcam`)).buffer;
}

/** Compare arrays of any depth by value. The numbers are about 1, and float32 keeps seven digits of them. */
export function assertClose(actual, expected, where = "value") {
  if (Array.isArray(expected)) {
    assert.equal(actual.length, expected.length, `length of ${where}`);
    expected.forEach((value, n) => assertClose(actual[n], value, `${where}[${n}]`));
  } else if (expected === null) {
    assert.ok(Number.isNaN(actual), `${where} is ${actual}, not NaN`);
  } else {
    assert.ok(Math.abs(actual - expected) <= 1e-6 * Math.max(1, Math.abs(expected)), `${where} is ${actual}, not ${expected}`);
  }
}
