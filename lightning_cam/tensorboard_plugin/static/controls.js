// The bar with the views on top and the column with the settings.

import { blockMethod, blockMethods } from "./blockmaps.js";
import { DIVERGING, SEQUENTIAL, gradient, isDiverging } from "./colors.js";
import { context2d, html, setText } from "./dom.js";
import { checkbox, choice, group, slider } from "./fields.js";
import { thinned } from "./columns.js";
import { chosenImages, confusions, quarterCount } from "./filters.js";
import { fullScale } from "./fullscale.js";
import { coverOf } from "./pictures.js";
import { rove } from "./roving.js";
import { activeColormap, isSigned, startsAtSmallest } from "./scale.js";
import { ALIGNED, SCALES, SHOWN, SORTS } from "./state.js";
import { formatEpoch, formatNumber, readable } from "./text.js";
import { VIEWS, comparedRuns, shownTimelines } from "./views.js";

/** @typedef {import("./main.js").App} App */
/** @typedef {import("./state.js").State} State */
/** @typedef {import("./timeline.js").Timeline} Timeline */

export const NARROW_PAGE = "(max-width: 760px)"; // as in style.css
/** @type {string[]} views of a single image */
const OF_ONE_IMAGE = ["film", "depth"];
const MAX_OPTIONS = 500; // looks to choose from; more are thinned out evenly
const THUMB_WIDTH = 72; // pixels of its canvas
const STRENGTH_NOTE = "Bar at the right of a tile: the map's largest value, as a share of its image's full color over time.";
/** @type {Partial<Record<State["show"], string>>} */
const SHOWN_NOTES = {
  changed: "The quarter of the images whose maps change most from look to look.",
  missing: "Images whose map shows no evidence at this step.",
  disagree: "The quarter of the images on which the methods agree least about the evidence at this step.",
};
const NO_FILTERS = /** @type {const} */ ({ label: null, predicted: null, show: "all" });
const LARGEST = { image: "largest value of this map", row: "99th percentile of this image's largest values at all steps", common: "99th percentile of the largest values of all images at all steps" };

/**
 * What the colors of the scale say, and on one common to all images which of them sets it.
 * @param {State} state
 * @param {Timeline[]} timelines
 */
function scaleNote(state, timelines) {
  if (state.view === "depth") return "Full color: the largest value of all blocks at all steps here. All tiles share this scale.";
  const peak = state.scale === "common" && state.method !== null ? fullScale(timelines, state.method, isSigned(state), null) : null;
  const setBy = peak ? `: ${formatNumber(peak.value)}, image ${peak.imageIndex + 1} (${peak.timeline.nameOf(peak.imageIndex)}) at step ${formatNumber(peak.timeline.looks[peak.lookIndex].step)}` : "";
  const largest = `the ${LARGEST[state.scale]}${setBy}`;
  if (state.view === "diff") {
    if (state.scale !== "image") return `Full color: a change by ${largest}.`;
    return "Full color: a change by the map's largest value, separately for each look. Compare shapes, not strength.";
  }
  if (startsAtSmallest(state)) return "From the map's smallest value (0 if any is negative) to its largest. Compare shapes, not strength.";
  return `Full color: ${largest}.`;
}

/**
 * What the two ends of the scale, and the middle of a diverging one, stand for.
 * @param {State} state
 */
function scaleEnds(state) {
  if (state.view === "diff") return ["less", "same", "more"];
  if (state.signed) return ["against", "0", "for"];
  return [startsAtSmallest(state) ? "smallest" : "0", "largest"];
}

export class Controls {
  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.tabs = html("div", { class: "views", role: "tablist", "aria-label": "views" });
    const open = (/** @type {string} */ view) => app.change({ view: /** @type {import("./views.js").View} */ (view) });
    for (const [view, title] of Object.entries(VIEWS)) {
      this.tabs.append(html("button", { role: "tab", id: `tab-${view}`, "aria-controls": "view", tabindex: -1, "data-view": view, onclick: () => open(view) }, title));
    }
    this.keepTab = rove(this.tabs, "[role=tab]", (tab) => open(tab.dataset.view ?? ""));
    this.choices = makeChoices(app);
    this.fields = makeFields(app);
    this.choices.timeline.element.classList.add("wide");
    this.runs = html("div", { class: "runs" });
    this.runsGroup = group("Runs", this.runs, this.choices.align);
    const { otherRun, otherMethod, otherStep } = this.choices;
    this.pairGroup = group("B", otherRun, otherMethod, otherStep, this.fields.swipe, this.fields.swipeAt);
    this.thumbs = html("div", { class: "thumbs", role: "group", "aria-label": "images" });
    this.keepThumb = rove(this.thumbs, "button");
    this.imageName = hint();
    this.imageGroup = group("Image", this.thumbs, this.imageName);
    this.shownNote = hint();
    this.count = hint();
    this.clear = html("button", { type: "button", class: "small", onclick: () => app.change({ ...NO_FILTERS }) }, "show all");
    this.sortAnew = html("button", { type: "button", class: "small", onclick: () => app.change({ sortStep: app.state.step }) }, "sort again");
    const { label, predicted, confusion, show, sort } = this.choices;
    const counted = html("div", { class: "counted" }, this.count, this.clear);
    this.filterGroup = group("Images", label, predicted, confusion, show, this.shownNote, sort, this.sortAnew, counted);
    this.legend = html("div", { class: "legend" });
    this.scaleNote = hint();
    this.strengthNote = hint(STRENGTH_NOTE);
    const groups = [
      group("Maps", this.choices.timeline, this.choices.method, this.choices.reference),
      this.runsGroup,
      this.pairGroup,
      this.imageGroup,
      this.filterGroup,
      this.#overlayGroup(),
      group("Page", this.fields.size, this.fields.fit, this.fields.charts),
    ];
    this.element = html("aside", { class: "controls" }, folded(groups));
  }

  #overlayGroup() {
    const { opacity, threshold, squareRoot, signed, smooth, outlines } = this.fields;
    const { colormap, scale } = this.choices;
    return group("Overlay", opacity, threshold, colormap, this.legend, scale, this.scaleNote, this.strengthNote, squareRoot, signed, smooth, outlines);
  }

  show() {
    const { app } = this;
    const { state } = app;
    const shown = shownTimelines(app)[0] ?? app.timelines.get(state.timeline ?? "");
    for (const tab of /** @type {Iterable<HTMLElement>} */ (this.tabs.children)) {
      tab.setAttribute("aria-selected", String(tab.dataset.view === state.view));
    }
    this.keepTab(this.tabs.querySelector("[aria-selected=true]"));
    this.#showChoices(shown);
    for (const field of Object.values(this.fields)) field.show();
    this.#hideUnused(shown);
    setText(this.scaleNote, scaleNote(state, shownTimelines(app)));
    this.#showLegend();
    if (state.view === "runs") this.#showRuns();
    if (OF_ONE_IMAGE.includes(state.view)) this.#showThumbs(shown);
  }

  /** @param {Timeline | undefined} shown */
  #showChoices(shown) {
    const { app, choices } = this;
    const { state } = app;
    const colormap = activeColormap(state);
    const labels = [...new Set(shown?.probe.labels.filter((label) => label >= 0))].sort((a, b) => a - b);
    const steps = state.view === "diff" ? (shown?.steps ?? []) : [];
    const looks = thinned(steps.length, shown?.lookAt(state.reference ?? -Infinity) ?? 0, MAX_OPTIONS).flatMap((t) => shown?.looks[t] ?? []);
    const quarter = quarterCount(shown);
    const lookIndex = shown?.lookAt(state.step ?? -Infinity) ?? 0;
    const known = shown?.looks.length ? shown : undefined;
    const pairs = known ? confusions(known, lookIndex) : [];
    const predicted = known ? [...new Set(known.probe.labels.map((_, i) => known.prediction(lookIndex, i).predicted))].flatMap((c) => c ?? []) : [];
    if (state.predicted !== null && !predicted.includes(state.predicted)) predicted.push(state.predicted);
    choices.timeline.show(app.listedTimelines.map(({ id, shortName, fullName }) => [id, shortName, fullName]), state.timeline);
    const other = app.timelines.get(state.otherRun ?? "") ?? shown;
    const otherLooks = state.view === "pair" ? (other?.looks ?? []) : [];
    const kept = thinned(otherLooks.length, other?.lookAt(state.otherStep ?? -Infinity) ?? 0, MAX_OPTIONS).flatMap((t) => otherLooks[t] ?? []);
    choices.align.show(Object.entries(ALIGNED), state.align);
    choices.otherRun.show([[null, "A's run"], ...app.listedTimelines.map(({ id, shortName, fullName }) => /** @type {const} */ ([id, shortName, fullName]))], state.otherRun);
    choices.otherMethod.show([[null, "A's method"], ...(other?.methods ?? []).map((method) => /** @type {const} */ ([method, readable(method)]))], state.otherMethod);
    choices.otherStep.show(
      [[null, "same epoch as A"], ...kept.map(({ step, epoch }) => /** @type {const} */ ([step, `step ${formatNumber(step)} · ${formatEpoch(epoch)}`]))],
      state.otherStep,
    );
    const byDepth = state.view === "depth" && shown ? blockMethods(shown) : [];
    const methods = byDepth.length ? byDepth : (shown?.methods ?? []);
    choices.method.show(methods.map((method) => [method, readable(method)]), byDepth.length && shown ? blockMethod(shown, state.method) : state.method);
    choices.colormap.show((isDiverging(colormap) ? DIVERGING : SEQUENTIAL).map((name) => [name, name]), colormap);
    choices.scale.show(Object.entries(SCALES), state.scale);
    choices.label.show([[null, "all"], ...labels.map((label) => /** @type {const} */ ([label, shown?.className(label) ?? ""]))], state.label);
    choices.predicted.show([[null, "any"], ...predicted.sort((a, b) => a - b).map((c) => /** @type {const} */ ([c, shown?.className(c) ?? ""]))], state.predicted);
    const chosen = pairs.find(({ label, predicted }) => label === state.label && predicted === state.predicted);
    choices.confusion.show(
      [[null, pairs.length ? "–" : "none at this step"], ...pairs.map((pair) => /** @type {const} */ ([pair, `${shown?.className(pair.label)} as ${shown?.className(pair.predicted)} (${pair.count})`]))],
      chosen ?? null,
    );
    choices.show.show(
      Object.entries(SHOWN)
        .filter(([show]) => show !== "disagree" || (known?.methods.length ?? 0) > 1 || state.show === show)
        .map(([show, text]) => [show, show === "changed" || show === "disagree" ? `${text} (${quarter})` : text]),
      state.show,
    );
    choices.sort.show(Object.entries(SORTS), state.sort);
    choices.reference.show(
      [[null, "the first look"], ...looks.map(({ step, epoch }) => /** @type {const} */ ([step, `step ${formatNumber(step)} · ${formatEpoch(epoch)}`]))],
      state.reference,
    );
  }

  /**
   * Hide what the current view has no use for.
   * @param {Timeline | undefined} shown
   */
  #hideUnused(shown) {
    const { view, show, sort, sortStep, step, label, predicted } = this.app.state;
    this.choices.timeline.element.hidden = view === "runs";
    this.choices.method.element.hidden = view === "methods";
    this.choices.reference.element.hidden = view !== "diff";
    this.fields.signed.element.hidden = view === "diff";
    this.fields.outlines.element.hidden = view === "overview" || !shown?.masks.length;
    this.runsGroup.hidden = view !== "runs";
    this.pairGroup.hidden = view !== "pair";
    this.fields.swipeAt.element.hidden = !this.app.state.swipe;
    this.imageGroup.hidden = !OF_ONE_IMAGE.includes(view);
    this.filterGroup.hidden = OF_ONE_IMAGE.includes(view);
    this.choices.scale.element.hidden = this.strengthNote.hidden = view === "depth";
    this.fields.size.element.hidden = this.fields.fit.element.hidden = view === "overview";
    setText(this.shownNote, SHOWN_NOTES[show] ?? "");
    this.shownNote.hidden = !SHOWN_NOTES[show];
    const byStep = sort === "probability" || sort === "evidence";
    this.sortAnew.hidden = !byStep || (sortStep ?? step) === step;
    if (sortStep !== null) this.sortAnew.title = `sorted by the values at step ${formatNumber(sortStep)}`;
    const all = shown?.count ?? 0;
    const count = shown?.looks.length ? chosenImages(this.app.state, shown).length : 0;
    setText(this.count, `${count === all ? "" : `${count} of `}${all} images`);
    this.clear.hidden = label === null && predicted === null && show === "all";
  }

  #showLegend() {
    const { state } = this.app;
    const colormap = activeColormap(state);
    const ends = scaleEnds(state);
    const key = `${colormap} ${ends}`;
    if (this.legend.dataset.key === key) return;
    this.legend.dataset.key = key;
    const bar = html("div", { class: "scalebar", style: `background: ${gradient(colormap)}` });
    this.legend.replaceChildren(bar, html("div", { class: "ends" }, ...ends.map((end) => html("span", {}, end))));
  }

  /** The boxes are made anew only where the list has changed: the one with the focus is to keep it. */
  #showRuns() {
    const { app } = this;
    const timelines = app.listedTimelines;
    const runs = app.listed.map(({ id, empty = false }, n) => {
      const { label, fullName } = timelines[n];
      return { id, empty, label, fullName };
    });
    const key = JSON.stringify(runs.map(({ id, empty, label }) => [id, empty, label]));
    if (this.runs.dataset.key !== key) {
      this.runs.dataset.key = key;
      this.runs.replaceChildren(...runs.map((run) => this.#runBox(run)));
    }
    const compared = new Set(comparedRuns(app));
    this.runs.querySelectorAll("input").forEach((input, n) => (input.checked = compared.has(runs[n].id)));
  }

  /** @param {{ id: string, empty: boolean, label: string, fullName: string }} run */
  #runBox({ id, empty, label, fullName }) {
    const toggle = () => {
      const compared = comparedRuns(this.app);
      this.app.change({ runs: input.checked ? [...compared, id] : compared.filter((other) => other !== id) });
    };
    const input = html("input", { type: "checkbox", disabled: empty, onchange: toggle });
    return html("label", { class: "check", title: fullName }, input, empty ? `${label} (no looks yet)` : label);
  }

  /** @param {Timeline | undefined} timeline */
  #showThumbs(timeline) {
    const key = `${timeline?.id} ${timeline?.images.length}`;
    if (this.thumbs.dataset.key !== key) {
      this.thumbs.dataset.key = key;
      this.thumbs.replaceChildren(...(timeline ? timeline.images.map((_, i) => thumb(this.app, timeline, coverOf(timeline, i, this.app.state.method), i)) : []));
    }
    const thumbs = /** @type {HTMLElement[]} */ ([...this.thumbs.children]);
    const chosen = Math.min(this.app.state.image, thumbs.length - 1);
    thumbs.forEach((thumb, i) => thumb.setAttribute("aria-pressed", String(i === chosen)));
    this.keepThumb(thumbs[chosen]);
    setText(this.imageName, thumbs[chosen]?.title ?? "");
  }
}

/**
 * A small image that is a button to choose it.
 * @param {App} app
 * @param {Timeline} timeline
 * @param {ImageBitmap} image
 * @param {number} imageIndex
 */
function thumb(app, timeline, image, imageIndex) {
  const canvas = html("canvas", { width: THUMB_WIDTH, height: Math.round(THUMB_WIDTH / timeline.aspect) });
  context2d(canvas).drawImage(image, 0, 0, canvas.width, canvas.height);
  const number = `image ${imageIndex + 1}`;
  const name = timeline.nameOf(imageIndex);
  const title = name === number ? number : `${number}: ${name}`;
  return html("button", { title, "aria-label": title, tabindex: -1, onclick: () => app.change({ image: imageIndex }) }, canvas);
}

/** @param {App} app */
function makeChoices(app) {
  return {
    timeline: choice("timeline", "Run", (timeline) => app.change({ timeline })),
    method: choice("method", "Method", (method) => app.change({ method })),
    reference: choice("reference", "Versus", (reference) => app.change({ reference })),
    align: choice("align", "Align by", (align) => app.change({ align })),
    otherRun: choice("otherRun", "Run", (otherRun) => app.change({ otherRun })),
    otherMethod: choice("otherMethod", "Method", (otherMethod) => app.change({ otherMethod })),
    otherStep: choice("otherStep", "Step", (otherStep) => app.change({ otherStep })),
    colormap: choice("colormap", "Colors", (name) => app.change({ [isDiverging(name) ? "diverging" : "sequential"]: name })),
    scale: choice("scale", "Scale", (scale) => app.change({ scale })),
    label: choice("label", "Class", (label) => app.change({ label })),
    predicted: choice("predicted", "Predicted", (predicted) => app.change({ predicted })),
    confusion: choice("confusion", "Confused", (pair) => app.change(pair ? { label: pair.label, predicted: pair.predicted, show: "all" } : { ...NO_FILTERS })),
    show: choice("show", "Show", (show) => app.change({ show })),
    sort: choice("sort", "Sort by", (sort) => app.change({ sort, sortStep: app.state.step })),
  };
}

/** @param {App} app */
function makeFields(app) {
  const share = { min: 0, max: 1, step: 0.01 };
  const percent = (/** @type {number} */ value) => `${Math.round(100 * value)} %`;
  return {
    swipe: checkbox(app, "swipe", "swipe: B over A"),
    swipeAt: slider(app, "swipeAt", "B starts at", share, percent),
    opacity: slider(app, "opacity", "Opacity", share, percent),
    threshold: slider(app, "threshold", "Threshold", share, percent),
    squareRoot: checkbox(app, "squareRoot", "bring out weak evidence"),
    signed: checkbox(app, "signed", "signed: also evidence against"),
    smooth: checkbox(app, "smooth", "smooth between cells"),
    outlines: checkbox(app, "outlines", "outline of the object"),
    size: slider(app, "size", "Tile size", { min: 96, max: 480, step: 1 }, (value) => `${value} px`, { fit: false }),
    fit: checkbox(app, "fit", "fit tiles to the window"),
    charts: checkbox(app, "charts", "metrics under the slider"),
  };
}

/** @param {string} [text] */
function hint(text = "") {
  return html("p", { class: "hint" }, text);
}

/**
 * The groups, folded where the page is narrow: the tiles come first there.
 * @param {HTMLElement[]} groups
 */
function folded(groups) {
  const element = html("details", {}, html("summary", {}, "Settings"), ...groups);
  const narrow = matchMedia(NARROW_PAGE);
  const fold = () => (element.open = !narrow.matches);
  narrow.addEventListener("change", fold);
  fold();
  return element;
}
