// The modules can be imported where there is no page: they touch it only when they are asked to.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";

const STATIC = new URL("../../lightning_cam/tensorboard_plugin/static/", import.meta.url);

for (const name of readdirSync(STATIC).filter((name) => name.endsWith(".js"))) {
  test(`${name} is imported without a page`, async () => {
    assert.equal(globalThis.document, undefined);
    assert.ok(Object.keys(await import(new URL(name, STATIC))).length);
  });
}
