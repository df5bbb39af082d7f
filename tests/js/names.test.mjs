// Sorting and shortening of names; a letter is one wide.

import assert from "node:assert/strict";
import { test } from "node:test";

import { commonFolder, compareNatural, shortenNames } from "../../lightning_cam/tensorboard_plugin/static/names.js";

const measure = (text) => [...text].length;
const shortened = (names, width) => [...shortenNames(names, width, measure).values()];

test("names are sorted as people count", () => {
  const sorted = ["a", "lr0.02", "lr0.1", "lr0.1/version_2", "lr0.1/version_10", "version_2", "version_10", "version_10b"];
  assert.deepEqual([...sorted].reverse().sort(compareNatural), sorted);
  assert.equal(compareNatural("version_2", "version_2"), 0);
});

test("names with equal numbers are still told apart", () => {
  assert.ok(compareNatural("v01", "v1") < 0 && compareNatural("v1", "v01") > 0);
});

test("the common folder ends with a slash and leaves each run a name", () => {
  assert.equal(commonFolder(["logs/a/version_0", "logs/a/version_1"]), "logs/a/");
  assert.equal(commonFolder(["logs/a/version_0", "logs/b/version_0"]), "logs/");
  assert.equal(commonFolder(["logs/ab", "logs/abc"]), "logs/");
  assert.equal(commonFolder(["logs/a", "logs/a/b"]), "logs/");
  assert.equal(commonFolder(["logs/a/version_0"]), "logs/a/");
  assert.equal(commonFolder(["fast", "slow"]), "");
  assert.equal(commonFolder(["."]), "");
  assert.equal(commonFolder([]), "");
});

test("a name that fits is left as it is", () => {
  assert.deepEqual(shortened(["cat", "dog"], 3), ["cat", "dog"]);
});

test("a name that is like no other is cut at its end, without a space before the dots", () => {
  assert.deepEqual(shortened(["somewhere else", "top"], 8), ["somewhe…", "top"]);
  assert.deepEqual(shortened(["far away", "top"], 5), ["far…", "top"]);
});

test("names that begin alike are cut in the middle, and keep more of their ends", () => {
  assert.deepEqual(shortened(["at the bottom, left", "at the bottom, right", "top"], 10), ["at…, left", "at t…right", "top"]);
});

test("letters of two code units are not cut in two", () => {
  assert.deepEqual(shortened(["🐈🐈🐈🐈"], 3), ["🐈🐈…"]);
});

test("where nothing fits one letter is left", () => {
  assert.deepEqual(shortened(["cat", "dog"], 0), ["c…", "d…"]);
});

test("names that begin and end alike are cut around what differs", () => {
  const runs = ["vit_lr0.1_wd0.05_seed1/version_0", "vit_lr0.01_wd0.05_seed1/version_0", "vit_lr0.001_wd0.05_seed1/version_0"];
  const short = shortened(runs, 14);
  assert.equal(new Set(short).size, 3, short.join(" | "));
  assert.ok(short.every((name) => measure(name) <= 14 && name.includes("…")), short.join(" | "));
  for (const width of [8, 12, 20]) assert.equal(new Set(shortened(["aaaaaaaaaaaaaaaaaaaa1bbbbbbbbbbbbbbbbbbbbb", "aaaaaaaaaaaaaaaaaaaa2bbbbbbbbbbbbbbbbbbbbb"], width)).size, 2);
});

test("runs that share an ending are told apart by their beginning", () => {
  assert.deepEqual(shortened(["baseline_model/version_0", "augmented_model/version_0"], 10), ["baseline_…", "augmented…"]);
});
