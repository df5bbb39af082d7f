// What blocks read, as the page has it: the same values that Python reads from the record.

import assert from "node:assert/strict";
import { test } from "node:test";

import { blockMethods, blockScale, looksWithBlocks, nearestBefore, shareOf } from "../../lightning_cam/tensorboard_plugin/static/blockmaps.js";
import { blockNames, depthColumns } from "../../lightning_cam/tensorboard_plugin/static/depth.js";
import { isBlocks } from "../../lightning_cam/tensorboard_plugin/static/heads.js";
import { dequantize } from "../../lightning_cam/tensorboard_plugin/static/record.js";
import { DEFAULTS } from "../../lightning_cam/tensorboard_plugin/static/state.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { assertClose, expected, recordBytes } from "./fixtures.mjs";

const timeline = new Timeline({ id: "blocks", run: "run", uid: "" });
timeline.feed(recordBytes("blocks"));
const whole = expected("blocks");

test("maps of blocks are those that Python reads", () => {
  const read = timeline.looks.flatMap(({ step, blocks }) => (blocks ? [{ step, ...blocks }] : []));
  assert.equal(read.length, whole.length);
  read.forEach(({ step, names, images, maps }, n) => {
    assert.equal(step, whole[n].step);
    assert.deepEqual(names, whole[n].names);
    for (const [method, rows] of Object.entries(whole[n].maps)) {
      rows.forEach((values, row) => {
        const own = Array.from({ length: images }, (_, i) => Array.from(dequantize(maps[method][row], i)));
        assertClose(own, values.map((map) => map.flat()), `${method} ${row}`);
      });
    }
  });
});

test("scale and shares are those of all blocks", () => {
  const { attnlrp } = whole[0].maps;
  const all = whole.flatMap(({ maps }) => maps.attnlrp.flatMap((images) => images[1].flat()));
  assertClose(blockScale(timeline, "attnlrp", 1, false), Math.max(...all));
  assertClose(blockScale(timeline, "attnlrp", 1, true), Math.max(...all.map(Math.abs)));
  const sums = attnlrp.map((images) => images[1].flat().reduce((sum, value) => sum + Math.max(0, value), 0));
  const look = timeline.looks.find(({ blocks }) => blocks);
  sums.forEach((sum, row) => assertClose(shareOf(look.blocks, "attnlrp", row, 1), sum / sums.reduce((a, b) => a + b)));
});

test("tiles stand in rows of blocks and columns of looks", () => {
  assert.deepEqual(blockMethods(timeline), ["attnlrp"]);
  const looks = looksWithBlocks(timeline, "attnlrp");
  const { headings, tiles } = depthColumns({ ...DEFAULTS, image: 1, step: timeline.steps[1], method: "hirescam" }, timeline);
  assert.equal(headings.length, looks.length);
  assert.deepEqual(tiles.map(({ lookIndex, block, method }) => [lookIndex, block, method]), whole[0].names.flatMap((_, block) => looks.map((t) => [t, block, "attnlrp"])));
  assert.deepEqual(new Set(tiles.filter(({ current }) => current).map(({ lookIndex }) => lookIndex)), new Set([nearestBefore(looks, 1)]));
});

test("names of blocks are short and differ", () => {
  assert.deepEqual(blockNames(["model.blocks.0", "model.blocks.1", "head"], 19), ["blocks.0", "blocks.1", "head"]);
  assert.deepEqual(blockNames(["layers.0.blocks.0", "layers.1.blocks.0", "head"], 19), ["layers.0.blocks.0", "layers.1.blocks.0", "head"]);
  assert.deepEqual(blockNames(["net.layer1.0", "net.layer2.0", "head"], 19), ["layer1.0", "layer2.0", "head"]);
  assert.deepEqual(blockNames(["stem", "stages.0.blocks.10", "head"], 11), ["stem", "s.0.b.10", "head"]);
  assert.deepEqual(blockNames(["only.block.0", "head"], 19), ["only.block.0", "head"]);
});

test("a head that says what cannot be is refused", () => {
  const good = { step: 1, names: ["a", "head"], methods: ["m"], images: 2, shapes: [[2, 2], [1, 1]] };
  assert.ok(isBlocks(good, 2));
  for (const patch of [{ images: 3 }, { images: -1 }, { shapes: [[2, 2]] }, { shapes: [[2, 2], [1, 0]] }, { names: [1, 2] }, { methods: null }, { why: 1 }, { step: 0.5 }]) assert.ok(!isBlocks({ ...good, ...patch }, 2), JSON.stringify(patch));
});
