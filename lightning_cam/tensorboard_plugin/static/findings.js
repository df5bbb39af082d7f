// What was found in a training, in sentences, with links to the classes and steps that they name.

import { SEQUENTIAL, overlayTable } from "./colors.js";
import { html, setText } from "./dom.js";
import { drawMap } from "./draw.js";
import { decode } from "./pictures.js";
import { readable } from "./text.js";

/** @typedef {import("./main.js").App} App */
/** @typedef {import("./timeline.js").Timeline} Timeline */

/**
 * One sentence of a record, see lightning_cam/timeline/found.py.
 * @typedef {object} Finding
 * @property {string} kind
 * @property {string} text
 * @property {string} status "confirmed", "not confirmed", "not testable" or "measured"
 * @property {number | null} since step since which it holds
 * @property {number[]} classes
 * @property {number[]} images validation images that show it, in the order they came
 */

const MAP_SIDE = 56; // pixels of an image's map beside a sentence

/** One line above the tiles: the first of the newest findings at or before a step. */
export class Findings {
  /** @param {App} app */
  constructor(app) {
    this.text = html("span");
    const all = () => app.change({ view: "overview" });
    this.button = html("button", { type: "button", onclick: all });
    this.element = html("section", { class: "findings", "aria-label": "What was found", hidden: true }, this.text, this.button);
    this.app = app;
  }

  /**
   * @param {Timeline[]} timelines
   * @param {number | null} step
   */
  show(timelines, step) {
    const { view } = this.app.state;
    const found = timelines.length === 1 && view !== "overview" ? newestFound(timelines[0], step ?? Infinity)?.findings : null;
    this.element.hidden = !found?.length;
    if (!found?.length) return;
    const [{ text, status }] = found;
    setText(this.text, readable(text));
    this.text.title = readable(text);
    this.text.className = status === "confirmed" ? "confirmed" : "";
    setText(this.button, found.length > 1 ? `all ${found.length} findings` : "overview");
  }
}

/**
 * A finding with its links.
 * @param {App} app
 * @param {Timeline} timeline
 * @param {Finding} finding
 * @param {import("./foundmaps.js").FoundMaps} [maps] of validation images
 */
export function findingItem(app, timeline, finding, maps) {
  const { status, since, classes, images } = finding;
  const text = readable(finding.text);
  const parts = linkedParts(text, classes.map((label) => [label, timeline.className(label)]));
  const toClass = (/** @type {number} */ label) =>
    link(timeline.className(label), () =>
      app.change({ view: "grid", label, predicted: null, show: finding.kind === "confused" ? "wrong" : "all", ...(since === null ? {} : { step: since, follow: false }) }),
    );
  const toStep = (/** @type {number} */ step, /** @type {string} */ words) => link(words, () => app.change({ view: "grid", step, follow: false }));
  const isShown = (/** @type {number} */ label) => timeline.probe.labels.includes(label);
  const sentence = parts.map((part) => {
    if (typeof part === "string") return part;
    if ("step" in part) return toStep(part.step, part.text);
    return isShown(part.label) ? toClass(part.label) : part.text;
  });
  const named = new Set(parts.flatMap((part) => (typeof part !== "string" && "label" in part ? [part.label] : [])));
  const more = classes.filter((label) => !named.has(label) && isShown(label)).map(toClass);
  if (since !== null && !parts.some((part) => typeof part !== "string" && "step" in part && part.step === since)) {
    more.push(toStep(since, `step ${since.toLocaleString("en")}`));
  }
  const spaced = more.flatMap((button) => [" ", button]);
  return html("li", { class: status === "confirmed" ? "confirmed" : "" }, ...sentence, ...spaced, imagesOf(images, maps, timeline.foundPictures));
}

/**
 * The validation images that show a finding, with their pictures and maps where the record has them.
 * @param {number[]} images
 * @param {import("./foundmaps.js").FoundMaps | undefined} maps
 * @param {Map<number, Uint8Array>} pictures WebP
 */
function imagesOf(images, maps, pictures) {
  if (!images.length) return null;
  const drawn = images.flatMap((image) => {
    const map = maps?.get(image);
    const picture = pictures.get(image);
    return [...(picture ? [pictureOf(image, picture)] : []), ...(map ? [mapOf(image, map)] : [])];
  });
  return html("div", { class: "images" }, html("span", {}, `validation images ${images.join(", ")}`), ...drawn);
}

/**
 * @param {number} image
 * @param {Uint8Array} bytes WebP
 */
function pictureOf(image, bytes) {
  const title = `validation image ${image}`;
  const canvas = html("canvas", { class: "picture", width: MAP_SIDE, height: MAP_SIDE, title, role: "img", "aria-label": title });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  decode(/** @type {any} */ (bytes), "image/webp").then((bitmap) => context.drawImage(bitmap, 0, 0, MAP_SIDE, MAP_SIDE));
  return canvas;
}

/**
 * @param {number} image
 * @param {Float32Array} map
 */
function mapOf(image, map) {
  const title = `where the evidence lies in validation image ${image}`;
  const canvas = html("canvas", { width: MAP_SIDE, height: MAP_SIDE, title, role: "img", "aria-label": title });
  const side = Math.sqrt(map.length);
  const peak = map.reduce((most, value) => Math.max(most, value), 0) || 1;
  const [colormap] = SEQUENTIAL;
  const table = overlayTable(colormap, { opacity: 1, threshold: 0, squareRoot: false });
  drawMap(canvas, { values: map.map((value) => value / peak), rows: side, columns: side }, { colormap, table, smooth: true });
  return canvas;
}

/**
 * @param {string} text
 * @param {() => void} onclick
 */
function link(text, onclick) {
  return html("button", { type: "button", class: "link", onclick }, text);
}

/** @typedef {string | { step: number, text: string } | { label: number, text: string }} Part */

/**
 * A sentence in parts: text, steps that it names, and names of its classes. A name that is a number is one only behind
 * "Class", or where one class is taken for another.
 * @param {string} text
 * @param {[label: number, name: string][]} classes
 * @returns {Part[]}
 */
export function linkedParts(text, classes) {
  const steps = "(?<=\\bsteps? |\\bsteps [\\d,]+ and )\\d[\\d,]*\\d|(?<=\\bsteps? |\\bsteps [\\d,]+ and )\\d";
  const names = classes.map(([label, name]) => {
    const plain = name === `class ${label}` ? String(label) : name;
    const escaped = plain.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
    const numeric = /^[\d.,]*$/.test(plain);
    return numeric ? `(?<=\\bClass )${escaped}(?![\\d,.]\\d|\\d)|^${escaped}(?= is (?:mis)?taken for )|(?<= is (?:mis)?taken for )${escaped}(?= in )` : `(?<![\\p{L}\\d])${escaped}(?![\\p{L}\\d])`;
  });
  const pattern = new RegExp([`(${steps})`, ...names.map((name) => `(${name})`)].join("|"), "gu");
  /** @type {Part[]} */
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(pattern)) {
    if (found.index > at) parts.push(text.slice(at, found.index));
    const [whole, step] = found;
    if (step !== undefined) parts.push({ step: Number(step.replaceAll(",", "")), text: whole });
    else parts.push({ label: classes[found.findIndex((group, n) => n > 1 && group !== undefined) - 2][0], text: whole });
    at = found.index + whole.length;
  }
  if (at < text.length) parts.push(text.slice(at));
  return parts;
}

/**
 * The newest look at or before a step at which something was found, or nothing unusual.
 * @param {Timeline} timeline
 * @param {number} step
 */
export function newestFound(timeline, step) {
  return timeline.looks.filter((look) => look.findings && look.step <= step).at(-1) ?? null;
}
