// Records that Python's writer wrote, against what Python's reader makes of them; and files that are broken.

import assert from "node:assert/strict";
import { test } from "node:test";

import { readAppended, serverSource } from "../../lightning_cam/tensorboard_plugin/static/source.js";
import { crc32, dequantize } from "../../lightning_cam/tensorboard_plugin/static/record.js";
import { fullScale } from "../../lightning_cam/tensorboard_plugin/static/fullscale.js";
import { Timeline } from "../../lightning_cam/tensorboard_plugin/static/timeline.js";
import { assertClose, expected, recordBytes } from "./fixtures.mjs";

function emptyTimeline() {
  return new Timeline({ id: "run/cam.lcam", run: "run", uid: "0" });
}

function read(buffer) {
  const timeline = emptyTimeline();
  timeline.feed(buffer);
  return timeline;
}

const steps = (timeline) => timeline.looks.map(({ step }) => step);
const images = (timeline) => Array.from({ length: timeline.count }, (_, i) => i);

for (const name of ["whole", "resumed", "unlabeled"]) {
  const timeline = read(recordBytes(name));
  const python = expected(name);

  test(`${name}: the probe batch`, () => {
    assert.equal(timeline.error, null);
    assert.deepEqual(timeline.probe.labels, python.labels);
    assert.deepEqual(timeline.probe.class_names, python.class_names);
    assert.deepEqual(timeline.probe.texts ?? [], python.texts);
    assert.equal(timeline.aspect, python.size[1] / python.size[0]);
    const base64 = (buffers) => buffers.map((buffer) => Buffer.from(buffer).toString("base64"));
    assert.deepEqual(base64(timeline.encodedImages), python.encoded_images);
    assert.deepEqual(base64(timeline.encodedRegions), python.encoded_regions);
  });

  test(`${name}: steps, epochs and metrics`, () => {
    assert.deepEqual(steps(timeline), python.steps);
    assert.deepEqual(timeline.looks.map(({ epoch }) => epoch), python.epochs);
    for (const [tag, values] of Object.entries(python.metrics)) {
      assertClose(timeline.looks.map(({ metrics }) => metrics[tag] ?? NaN), values, tag);
    }
  });

  test(`${name}: maps, NaN where a method was missing or not finite`, () => {
    assert.deepEqual(timeline.methods, Object.keys(python.maps));
    for (const [method, looks] of Object.entries(python.maps)) {
      looks.forEach((maps, t) => {
        const recorded = timeline.looks[t].maps[method];
        maps.forEach((map, i) => {
          const values = recorded ? [...dequantize(recorded, i)] : map.flat().map(() => NaN);
          assertClose(values, map.flat(), `${method} of image ${i} at look ${t}`);
        });
      });
    }
  });

  test(`${name}: predictions`, () => {
    const predictions = timeline.looks.map((_, t) => images(timeline).map((i) => timeline.prediction(t, i)));
    const of = (value) => predictions.map((look) => look.map(value));
    assert.deepEqual(of(({ predicted }) => predicted ?? -1), python.top_classes.map((look) => look.map(([best]) => best)));
    const topK = python.top_classes[0][0].length;
    const unknown = Array(topK).fill({ classIdx: -1, probability: NaN });
    const top = of((prediction) => (prediction.top.length ? prediction.top : unknown));
    assert.deepEqual(top.map((look) => look.map((own) => own.map(({ classIdx }) => classIdx))), python.top_classes);
    assertClose(top.map((look) => look.map((own) => own.map(({ probability }) => probability))), python.top_probabilities);
    assertClose(of(({ labelProbability }) => labelProbability ?? NaN), python.label_probability);
    const explained = timeline.looks.map((_, t) => images(timeline).map((i) => timeline.explainedClass(t, i) ?? -1));
    assert.deepEqual(explained, python.class_idx);
    const correct = python.top_classes.map((look) => look.map(([best], i) => (python.labels[i] < 0 || best < 0 ? null : best === python.labels[i])));
    assert.deepEqual(of((prediction) => prediction.correct), correct);
    const values = timeline.looks.map((look) => images(timeline).map((i) => look.values?.[i] ?? NaN));
    assertClose(values, python.values);
  });

  test(`${name}: peaks and drift`, () => {
    for (const [method, { peaks, signed_peaks, drift }] of Object.entries(python.derived)) {
      const largest = (signed) => timeline.probe.hashes.map((hash) => fullScale([timeline], method, signed, hash)?.value ?? 0);
      assertClose(largest(false), peaks, "peaks");
      assertClose(largest(true), signed_peaks, "signed peaks");
      assert.ok(Math.max(...timeline.drift(method).map((value, i) => Math.abs(value - drift[i]))) < 1e-5);
    }
  });
}

test("a method that is missing at some looks is among the methods", () => {
  const timeline = read(recordBytes("whole"));
  assert.deepEqual(timeline.looks.map(({ maps }) => Object.keys(maps)), [["hirescam", "gradcam"], ["hirescam"], ["hirescam", "gradcam"]]);
  assert.deepEqual(timeline.methods, ["hirescam", "gradcam"]);
});

test("a map that is not finite has no largest value and harms no other", () => {
  const timeline = read(recordBytes("whole"));
  const { hirescam } = timeline.looks[1].maps;
  assert.ok(dequantize(hirescam, 0).every(Number.isNaN));
  assert.ok(dequantize(hirescam, 1).every(Number.isFinite));
});

test("looks of a run that resumed replace those from its step on", () => {
  assert.deepEqual(steps(read(recordBytes("resumed"))), [0, 10, 20, 25]);
});

test("a record that grows is read from where it was left, wherever the writer was then", () => {
  const whole = recordBytes("whole");
  const atOnce = read(whole);
  for (let cut = 0; cut < whole.byteLength; cut += 97) {
    const timeline = read(whole.slice(0, cut));
    assert.equal(timeline.error, null);
    assert.ok(timeline.offset <= cut && timeline.looks.length <= atOnce.looks.length);
    const fresh = timeline.feed(whole.slice(timeline.offset));
    assert.equal(fresh, true);
    assert.equal(timeline.offset, whole.byteLength);
    assert.deepEqual(timeline.looks, atOnce.looks);
    assert.equal(timeline.feed(whole.slice(timeline.offset)), false);
  }
});

test("what is computed from the looks follows a record that grows", () => {
  const whole = recordBytes("whole");
  const timeline = read(whole.slice(0, whole.byteLength - 1)); // without the metrics that came last
  const { revision } = timeline;
  const before = timeline.drift("hirescam");
  assert.equal(timeline.drift("hirescam"), before);
  timeline.feed(whole.slice(timeline.offset));
  assert.equal(timeline.revision, revision + 1);
  assert.notEqual(timeline.drift("hirescam"), before);
});

test("reading ends at a record whose checksum is wrong", () => {
  const { ends } = expected("whole"); // of the probe batch, of the first look, of the second one, ...
  const cut = recordBytes("whole").slice(0, ends[3]); // the third look is the last: the writer may be at it
  new Uint8Array(cut)[ends[2] + 40] ^= 1;
  const timeline = read(cut);
  assert.equal(timeline.error, null);
  assert.equal(timeline.offset, ends[2]);
  assert.equal(timeline.looks.length, 2);
  assert.equal(timeline.damaged, 0);
});

test("a damaged look is passed over once a whole record follows, and counted", () => {
  const whole = recordBytes("whole");
  const { ends } = expected("whole");
  for (const place of [ends[1], ends[1] + 5, ends[1] + 40, ends[2] - 1]) { // its length, its checksum, its JSON, its arrays
    const broken = whole.slice(0);
    new Uint8Array(broken)[place] ^= 1;
    const timeline = read(broken);
    assert.deepEqual([timeline.error, timeline.damaged, timeline.offset], [null, 1, whole.byteLength]);
    assert.deepEqual(steps(timeline), [0, 20]);
    const growing = read(broken.slice(0, ends[2]));
    assert.deepEqual([growing.damaged, growing.offset], [0, ends[1]]);
    growing.feed(broken.slice(growing.offset));
    assert.deepEqual(growing.looks, timeline.looks);
  }
});

/** A record with a right checksum, whatever it says. */
function recordOf(text, body = new Uint8Array(0)) {
  const json = new TextEncoder().encode(text);
  const payload = new Uint8Array(4 + json.length + body.length);
  new DataView(payload.buffer).setUint32(0, json.length, true);
  payload.set(json, 4);
  payload.set(body, 4 + json.length);
  const record = new Uint8Array(8 + payload.length);
  new DataView(record.buffer).setUint32(0, payload.length, true);
  new DataView(record.buffer).setUint32(4, crc32(payload), true);
  record.set(payload, 8);
  return record;
}

const joined = (...parts) => Uint8Array.from(parts.flatMap((part) => [...new Uint8Array(part)])).buffer;
const LOOK = { kind: "look", step: 15, epoch: 0, time: 0, metrics: {}, methods: {}, top: 0, class_idx: false };
const WRONG = [
  "{", "null", "3", "[]]", "\"look\"",
  ...[
    { step: "15" }, { step: null }, { step: 1e300 }, { epoch: {} }, { time: "now" }, { metrics: null }, { metrics: { a: "1" } }, { metrics: [1] },
    { methods: null }, { methods: { m: 3 } }, { methods: { m: [2] } }, { methods: { m: [0, 2] } }, { methods: { m: [1e9, 1e9] } },
    { methods: { m: [-1, -1] } }, { methods: { m: [2, 2] } }, { top: -1 }, { top: 5 }, { top: 1.5 }, { class_idx: true }, { kind: "probe" },
  ].map((patch) => JSON.stringify({ ...LOOK, ...patch })),
  JSON.stringify({ kind: "metrics", step: 0, metrics: 5 }),
];

for (const text of WRONG) {
  test(`a record with a right checksum that says ${text} is left out`, () => {
    const whole = recordBytes("whole");
    const { ends } = expected("whole");
    const timeline = read(joined(whole.slice(0, ends[2]), recordOf(text), whole.slice(ends[2])));
    assert.deepEqual([timeline.error, timeline.damaged], [null, 1]);
    assert.deepEqual(timeline.looks, read(whole).looks);
  });
}

test("names that every object has are names like others", () => {
  const names = ["__proto__", "constructor", "toString", "hasOwnProperty"];
  const values = (value) => `{${names.map((name) => `"${name}":${JSON.stringify(value)}`).join()}}`;
  const { metrics, methods, ...others } = LOOK;
  const text = `${JSON.stringify(others).slice(0, -1)},"metrics":${values(0.5)},"methods":${values([1, 1])}}`;
  const probe = { kind: "probe", name: "__proto__", labels: [-1], class_names: [], size: [1, 1], hashes: ["0"], bytes: [0], region_bytes: [] };
  const late = `{"kind":"metrics","step":15,"metrics":${values(0.75)}}`;
  const timeline = read(joined(recordBytes("whole").slice(0, 16), recordOf(JSON.stringify(probe)), recordOf(text, new Uint8Array(9 * names.length)), recordOf(late)));
  assert.equal(timeline.damaged, 0);
  assert.deepEqual(timeline.methods, names);
  assert.deepEqual(names.map((name) => timeline.looks[0].metrics[name]), [0.75, 0.75, 0.75, 0.75]);
  assert.deepEqual(names.map((name) => timeline.looks[0].maps[name].rows), [1, 1, 1, 1]);
  assert.deepEqual([{}.rows, Object.keys(Object.prototype)], [undefined, []]);
});

test("a file that the server hands out in small pieces is read whole", async (context) => {
  const whole = recordBytes("whole");
  let asked = 0;
  context.mock.method(globalThis, "fetch", async (path) => {
    asked++;
    const from = Number(new URLSearchParams(path.split("?")[1]).get("from"));
    return new Response(whole.slice(from, from + 1000));
  });
  const timeline = emptyTimeline();
  assert.equal(await readAppended(serverSource(), timeline, whole.byteLength), true);
  assert.deepEqual([timeline.offset, asked], [whole.byteLength, Math.ceil(whole.byteLength / 1000)]);
  assert.deepEqual(timeline.looks, read(whole).looks);
});

test("reading ends at zeros, as a computer that crashed leaves them at a file's end", () => {
  const whole = new Uint8Array(recordBytes("whole"));
  const padded = new Uint8Array(whole.length + 64);
  padded.set(whole);
  const timeline = read(padded.buffer);
  assert.equal(timeline.offset, whole.length);
  assert.equal(timeline.looks.length, 3);
});

test("a newer version of the format is named", () => {
  const whole = recordBytes("whole");
  new DataView(whole).setUint32(4, 99, true);
  const timeline = read(whole);
  assert.match(timeline.error, /version 99 .* up to version 2: upgrade lightning-cam/);
  assert.equal(timeline.looks.length, 0);
});

test("another file is not taken for a record", () => {
  assert.match(read(new TextEncoder().encode("brain.Event:2 and more").buffer).error, /not a CAM timeline/);
});

test("nothing is known of a file that has just been made", () => {
  for (const size of [0, 15, 16]) {
    const timeline = emptyTimeline();
    assert.equal(timeline.feed(recordBytes("whole").slice(0, size)), false);
    assert.deepEqual([timeline.error, timeline.count, timeline.methods], [null, 0, []]);
  }
});

test("the look at a step is the newest one at or before it", () => {
  const timeline = read(recordBytes("resumed"));
  assert.deepEqual([-Infinity, 0, 9, 10, 24, 25, Infinity].map((step) => timeline.lookAt(step)), [0, 0, 0, 1, 2, 3, 3]);
});

test("a class without a name has its number, an unknown one a question mark", () => {
  const timeline = read(recordBytes("whole"));
  assert.deepEqual([0, 7, -1].map((classIdx) => timeline.className(classIdx)), ["cat", "class 7", "?"]);
});
