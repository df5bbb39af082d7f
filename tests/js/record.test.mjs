// Records that Python's writer wrote, against what Python's reader makes of them; and files that are broken.

import assert from "node:assert/strict";
import { test } from "node:test";

import { dequantize } from "../../lightning_cam/tensorboard_plugin/static/record.js";
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
  });

  test(`${name}: peaks and drift`, () => {
    for (const [method, { peaks, signed_peaks, drift }] of Object.entries(python.derived)) {
      assertClose([...timeline.peaks(method, false)], peaks, "peaks");
      assertClose([...timeline.peaks(method, true)], signed_peaks, "signed peaks");
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
  const before = timeline.peaks("hirescam", false);
  assert.equal(timeline.peaks("hirescam", false), before);
  timeline.feed(whole.slice(timeline.offset));
  assert.equal(timeline.revision, revision + 1);
  assert.notEqual(timeline.peaks("hirescam", false), before);
});

test("reading ends at a record whose checksum is wrong", () => {
  const whole = recordBytes("whole");
  const twoLooks = expected("whole").ends[2]; // of the probe batch, of the first look, of the second one, ...
  new Uint8Array(whole)[twoLooks + 40] ^= 1;
  const timeline = read(whole);
  assert.equal(timeline.error, null);
  assert.equal(timeline.offset, twoLooks);
  assert.equal(timeline.looks.length, 2);
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
  assert.match(timeline.error, /version 99 .* up to version 1: upgrade lightning-cam/);
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
