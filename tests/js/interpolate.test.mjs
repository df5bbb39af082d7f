// Interpolation against torch's.

import { test } from "node:test";

import { interpolate } from "../../lightning_cam/tensorboard_plugin/static/interpolate.js";
import { assertClose, expected } from "./fixtures.mjs";

for (const { rows, columns, factor, values, result } of expected("interpolate")) {
  test(`${rows} × ${columns} made ${factor} times finer`, () => {
    assertClose([...interpolate(Float32Array.from(values), rows, columns, factor)], result);
  });
}
