// Sentences for metrics.

import assert from "node:assert/strict";
import { test } from "node:test";

import { betterSign, wordsOf } from "../../lightning_cam/tensorboard_plugin/static/words.js";

test("each metric of the callback has a sentence that says which way is good or what chance is", () => {
  for (const title of ["entropy", "share_inside", "pointing_game", "deletion_auc", "model/agreement", "attention entropy, last block", "cohort/border_share"]) {
    assert.match(wordsOf(title), /better|chance|1 is/, title);
    assert.doesNotMatch(wordsOf(title), /your model/, title);
  }
});

test("a model's own metric is judged by its name alone, whatever that is", () => {
  assert.equal(wordsOf("val_loss"), "Logged by your model: lower is better, by its name.");
  assert.equal(wordsOf("val_acc"), "Logged by your model: higher is better, by its name.");
  for (const title of ["lr", "constructor", "__proto__", ""]) assert.equal(wordsOf(title), "Logged by your model.");
  assert.deepEqual(["val_loss", "val_f1", "lr"].map(betterSign), [-1, 1, 0]);
});
