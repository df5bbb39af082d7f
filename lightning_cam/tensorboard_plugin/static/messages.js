// What the page says where something is missing.

import { blockMethods } from "./blockmaps.js";
import { readable } from "./text.js";
import { MAX_RUNS, comparedRuns, shownTimelines } from "./views.js";

/** @typedef {import("./main.js").App} App */
/** @typedef {import("./source.js").Entry} Entry */
/** @typedef {import("./timeline.js").Timeline} Timeline */

const NO_RECORD = "No CAM timeline here yet. The callback writes one at its first validation.";
const NO_LOOK =
  "No looks yet: the first one comes with the next validation. If it does not, see the log of the training.";
const ONE_RUN = "Only one run has looks. To compare runs, put them under the same log directory.";
const ONE_METHOD = 'Only one method here. Give the callback several: methods=["hirescam", "gradcam"].';
const NO_BLOCKS = 'This record has no maps of single blocks. Methods of the whole depth record them: methods=["attnlrp"].';

/**
 * Ids of the records that the view is to show.
 * @param {App} app
 */
export function wantedRecords(app) {
  const { view, timeline, otherRun } = app.state;
  if (view === "runs") return comparedRuns(app).slice(0, MAX_RUNS);
  return view === "pair" && otherRun ? [timeline, otherRun] : [timeline];
}

/**
 * All that there is to say.
 * @param {App} app
 */
export function messagesOf(app) {
  return [...missing(app), ...omissions(app), ...app.notes];
}

/**
 * What is missing, if anything is.
 * @param {App} app
 */
function missing(app) {
  const wanted = wantedRecords(app);
  const broken = app.listedTimelines.filter(({ id, error }) => error && wanted.includes(id));
  const errors = broken.map(({ label, error }) => `${label}: ${error}`);
  if (app.failure) errors.push(app.failure);
  if (errors.length) return errors;
  if (!app.listed.length) return [NO_RECORD];
  const shown = shownTimelines(app);
  if (shown.length) return advice(app, shown[0]);
  const isUnread = (/** @type {Entry} */ { id, bytes }) => bytes > 0 && !app.timelines.get(id)?.offset;
  if (app.listed.some((entry) => wanted.includes(entry.id) && isUnread(entry))) return ["Reading the record …"];
  return !wanted.length && app.listed.some(({ empty }) => !empty) ? ["No run is selected."] : [NO_LOOK];
}

/**
 * What is left out of the records that are shown.
 * @param {App} app
 */
function omissions(app) {
  const wanted = wantedRecords(app);
  const damaged = app.listedTimelines.filter((timeline) => timeline.damaged && wanted.includes(timeline.id));
  return damaged.map(({ label, damaged: count }) => `${label}: ${count === 1 ? "1 look is" : `${count} looks are`} damaged and skipped.`);
}

/**
 * Why there is no view by depth.
 * @param {Timeline} timeline
 */
function noDepth(timeline) {
  const why = timeline.looks.flatMap(({ blocks }) => blocks?.why ?? []).pop();
  return why ? `What each block reads is not known: ${readable(why)}.` : NO_BLOCKS;
}

/**
 * How to get more to compare where there is just one.
 * @param {App} app
 * @param {Timeline} timeline
 */
function advice({ state: { view }, listed }, timeline) {
  if (view === "runs" && listed.filter(({ empty }) => !empty).length === 1) return [ONE_RUN];
  if (view === "depth" && !blockMethods(timeline).length) return [noDepth(timeline)];
  return view === "methods" && timeline.methods.length === 1 ? [ONE_METHOD] : [];
}
