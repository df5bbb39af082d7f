// The bar with the views on top and the column with the settings.

import { DIVERGING, SEQUENTIAL, gradient } from "./colors.js";
import { h, number, setText } from "./dom.js";
import { activeColormap, startsAtSmallest } from "./scale.js";
import { VIEWS, comparedRuns, shownTimelines } from "./views.js";

/** A labeled <select> bound to `state[name]`; its options are [value, text, full text], the values kept as they are. */
function choice(app, name, title, patch = (value) => ({ [name]: value })) {
  let values = [];
  const select = h("select", { name, onchange: () => app.change(patch(values[select.selectedIndex])) });
  const element = h("label", { class: "row" }, h("span", {}, title), select);
  const show = (options) => {
    values = options.map(([value]) => value);
    const texts = options.map(([, text]) => text);
    if (texts.join("\n") !== [...select.options].map(({ text }) => text).join("\n")) {
      select.replaceChildren(...texts.map((text) => h("option", {}, text)));
    }
    select.selectedIndex = Math.max(0, values.indexOf(app.state[name]));
    const [, text = "", full = text] = options[select.selectedIndex] ?? [];
    select.title = full; // the select may be too narrow for its text
  };
  return { element, show };
}

function range(app, name, title, { min, max, step }, text) {
  const input = h("input", { type: "range", name, min, max, step, oninput: () => app.change({ [name]: Number(input.value) }) });
  const value = h("span", { class: "number" });
  const show = () => {
    input.value = app.state[name];
    setText(value, text(app.state[name]));
  };
  return { element: h("label", { class: "row" }, h("span", {}, title), input, value), show };
}

function check(app, name, title) {
  const input = h("input", { type: "checkbox", name, onchange: () => app.change({ [name]: input.checked }) });
  return { element: h("label", { class: "check" }, input, title), show: () => (input.checked = app.state[name]) };
}

const SCALES = { image: "per image", row: "over time", common: "common" };
const NARROW_PAGE = "(max-width: 760px)"; // as in style.css
const BAR_NOTE = "The bar at a tile's right: the map's largest value, as a share of the image's largest at any step.";
const CHANGED_NOTE = "The quarter of the images whose maps change most from look to look.";
const LARGEST = { image: "of this map", row: "of this image at any step", common: "of any image at any step" };

/** What the colors of the scale say. */
function scaleNote(state) {
  const largest = `the largest value ${LARGEST[state.scale]}`;
  if (state.view === "diff") {
    if (state.scale !== "image") return `Full color: a change by ${largest}.`;
    return "Full color: a change by the largest value of the map, each look's by its own. Shapes compare, strength does not.";
  }
  if (startsAtSmallest(state)) return "From the smallest value of this map, 0 if any is negative, to the largest. Shapes compare, strength does not.";
  return `Full color: ${largest}.`;
}

export class Controls {
  constructor(app) {
    this.app = app;
    this.tabs = h("nav", { class: "views", role: "tablist" });
    for (const [view, title] of Object.entries(VIEWS)) {
      this.tabs.append(h("button", { role: "tab", "data-view": view, onclick: () => app.change({ view }) }, title));
    }
    const percent = (value) => `${Math.round(100 * value)} %`;
    const share = { min: 0, max: 1, step: 0.01 };
    this.fields = {
      timeline: choice(app, "timeline", "Run"),
      method: choice(app, "method", "Method"),
      reference: choice(app, "reference", "Versus"),
      opacity: range(app, "opacity", "Opacity", share, percent),
      threshold: range(app, "threshold", "Threshold", share, percent),
      colormap: choice(app, "colormap", "Colors", (value) => ({ [DIVERGING.includes(value) ? "diverging" : "sequential"]: value })),
      scale: choice(app, "scale", "Scale"),
      root: check(app, "root", "bring out weak evidence"),
      smooth: check(app, "smooth", "smooth between cells"),
      signed: check(app, "signed", "signed: also what is against"),
      outlines: check(app, "outlines", "outline of the object"),
      size: range(app, "size", "Tile size", { min: 96, max: 320, step: 16 }, (value) => `${value} px`),
      label: choice(app, "label", "Class"),
      show: choice(app, "show", "Show"),
      sort: choice(app, "sort", "Sort by"),
      charts: check(app, "charts", "metrics under the slider"),
    };
    const { timeline, method, reference, opacity, threshold, colormap, scale, root, smooth, signed, outlines, size, label, show, sort, charts } =
      this.fields;
    timeline.element.classList.add("wide");
    this.runs = h("div", { class: "runs" });
    this.thumbs = h("div", { class: "thumbs" });
    this.legend = h("div", { class: "legend" });
    this.scaleNote = h("p", { class: "hint" });
    this.runsGroup = group("Runs", this.runs);
    this.imageName = h("p", { class: "hint" });
    this.imageGroup = group("Image", this.thumbs, this.imageName);
    this.changedNote = h("p", { class: "hint" }, CHANGED_NOTE);
    this.filterGroup = group("Images", label.element, show.element, this.changedNote, sort.element);
    const groups = [
      group("Maps", timeline.element, method.element, reference.element),
      this.runsGroup,
      this.imageGroup,
      this.filterGroup,
      group(
        "Overlay",
        opacity.element,
        threshold.element,
        colormap.element,
        this.legend,
        scale.element,
        this.scaleNote,
        h("p", { class: "hint" }, BAR_NOTE),
        root.element,
        signed.element,
        smooth.element,
        outlines.element,
      ),
      group("Page", size.element, charts.element),
    ];
    this.element = h("aside", { class: "controls" }, folded(groups));
  }

  show() {
    const { app, fields } = this;
    const { state } = app;
    const timeline = shownTimelines(app)[0] ?? app.timelines.get(state.timeline);
    for (const tab of this.tabs.children) tab.setAttribute("aria-selected", tab.dataset.view === state.view);
    const diverging = activeColormap(state) === state.diverging;
    state.colormap = activeColormap(state);
    fields.timeline.show(app.listed.map(({ id }) => app.timelines.get(id)).map(({ id, short, fullName }) => [id, short, fullName]));
    fields.method.show((timeline?.methods ?? []).map((method) => [method, method]));
    fields.colormap.show((diverging ? DIVERGING : SEQUENTIAL).map((name) => [name, name]));
    fields.scale.show(Object.entries(SCALES));
    fields.label.show([[null, "all"], ...this.#labels(timeline)]);
    const most = Math.ceil((timeline?.count ?? 0) / 4);
    fields.show.show([["all", "all"], ["right", "predicted right"], ["wrong", "predicted wrong"], ["changed", `changed most (${most})`]]);
    const sorts = { index: "probe order", drift: "drift", probability: "probability", evidence: "evidence" };
    fields.sort.show(Object.entries(sorts));
    const steps = (timeline?.looks ?? []).map(({ step, epoch }) => [step, `step ${number(step)} · epoch ${epoch}`]);
    fields.reference.show([[null, "the first look"], ...steps]);
    for (const name of ["opacity", "threshold", "root", "smooth", "signed", "outlines", "size", "charts"]) fields[name].show();

    const { view } = state;
    fields.timeline.element.hidden = view === "runs";
    fields.method.element.hidden = view === "methods";
    fields.reference.element.hidden = view !== "diff";
    fields.signed.element.hidden = view === "diff";
    fields.outlines.element.hidden = !timeline?.outlines.length;
    this.runsGroup.hidden = view !== "runs";
    this.imageGroup.hidden = view !== "film";
    this.filterGroup.hidden = view === "film";
    this.changedNote.hidden = state.show !== "changed";
    setText(this.scaleNote, scaleNote(state));
    this.#showLegend(diverging);
    if (view === "runs") this.#showRuns();
    if (view === "film") this.#showThumbs(timeline);
  }

  #labels(timeline) {
    const labels = [...new Set(timeline?.probe?.labels.filter((label) => label >= 0) ?? [])].sort((a, b) => a - b);
    return labels.map((label) => [label, timeline.className(label)]);
  }

  #showLegend(diverging) {
    const { state } = this.app;
    const ends = state.view === "diff" ? ["less", "same", "more"] : diverging ? ["against", "0", "for"] : [startsAtSmallest(state) ? "smallest" : "0", "largest"];
    const key = `${activeColormap(state)} ${ends}`;
    if (this.legend.dataset.key === key) return;
    this.legend.dataset.key = key;
    const bar = h("div", { class: "scalebar", style: `background: ${gradient(activeColormap(state))}` });
    this.legend.replaceChildren(bar, h("div", { class: "ends" }, ...ends.map((end) => h("span", {}, end))));
  }

  #showRuns() {
    const { app } = this;
    const runs = app.listed.map(({ id, empty }) => {
      const { label, fullName } = app.timelines.get(id);
      return { id, empty, label, fullName };
    });
    const key = JSON.stringify(runs.map(({ id, empty, label }) => [id, empty, label]));
    if (this.runs.dataset.key !== key) {
      this.runs.dataset.key = key;
      this.runs.replaceChildren(...runs.map((run) => this.#runBox(run)));
    }
    const compared = comparedRuns(app);
    runs.forEach(({ id }, n) => (this.runs.children[n].querySelector("input").checked = compared.includes(id)));
  }

  #runBox({ id, empty, label, fullName }) {
    const toggle = () => {
      const compared = comparedRuns(this.app);
      this.app.change({ runs: input.checked ? [...compared, id] : compared.filter((own) => own !== id) });
    };
    const input = h("input", { type: "checkbox", disabled: empty, onchange: toggle });
    return h("label", { class: "check", title: fullName }, input, empty ? `${label} (no look yet)` : label);
  }

  #showThumbs(timeline) {
    const images = timeline?.images ?? [];
    const key = `${timeline?.id} ${images.length}`;
    if (this.thumbs.dataset.key !== key) {
      this.thumbs.dataset.key = key;
      this.thumbs.replaceChildren(...images.map((image, i) => this.#thumb(timeline, image, i)));
    }
    const shown = Math.min(this.app.state.image, images.length - 1);
    [...this.thumbs.children].forEach((thumb, i) => thumb.setAttribute("aria-pressed", i === shown));
    setText(this.imageName, this.thumbs.children[shown]?.title ?? "");
  }

  #thumb(timeline, image, i) {
    const canvas = h("canvas", { width: 72, height: Math.round(72 / timeline.aspect) });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    const label = timeline.probe.labels[i];
    const title = label < 0 ? `image ${i + 1}` : `image ${i + 1}: ${timeline.className(label)}`;
    return h("button", { title, onclick: () => this.app.change({ image: i }) }, canvas);
  }
}

/** The groups, folded where the page is narrow: the tiles come first there. */
function folded(groups) {
  const element = h("details", {}, h("summary", {}, "Settings"), ...groups);
  const narrow = matchMedia(NARROW_PAGE);
  const fold = () => (element.open = !narrow.matches);
  narrow.addEventListener("change", fold);
  fold();
  return element;
}

function group(title, ...children) {
  return h("section", { class: "group" }, h("h2", {}, title), ...children);
}
