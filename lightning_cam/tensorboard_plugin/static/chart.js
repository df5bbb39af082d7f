// The metrics over steps: one small chart per metric, each with its own range, all with one cursor.

import { lineStyle } from "./colors.js";
import { h, number, setText, svg } from "./dom.js";
import { fitted } from "./names.js";
import { mean } from "./record.js";

const HEIGHT = 64;
const WIDTH = 240;
const NOT_NAME = 90; // pixels of a legend's line before the name: the line's look, the value
const CONTROL = "random"; // what maps of chance score, for comparison
const CONTROL_STYLE = { color: "#8a8f98", dash: "none" };

export class Charts {
  /** onStep(step) is called with the step under the pointer. */
  constructor(onStep) {
    this.onStep = onStep;
    this.element = h("div", { class: "charts" });
    this.key = null;
    this.panels = [];
  }

  /** Draw what has changed; `methods` are those shown now. */
  show(timelines, methods, steps, step) {
    const key = JSON.stringify([timelines.map(({ id, revision, label }) => [id, revision, label]), methods]);
    if (key !== this.key) {
      this.key = key;
      this.range = [steps[0], steps.at(-1)];
      this.panels = collect(timelines, methods).map((panel) => this.#panel(panel));
      this.element.replaceChildren(...this.panels.map(({ element }) => element));
      for (const { names, series } of this.panels) if (names) shorten(names, series);
    }
    for (const panel of this.panels) {
      panel.cursor.style.left = `${100 * this.#across(step)}%`;
      for (const { value, points } of panel.series) setText(value, number(valueAt(points, step)));
    }
  }

  #across(step) {
    const [low, high] = this.range;
    return high > low ? (step - low) / (high - low) : 0.5;
  }

  #panel({ title, series }) {
    const numbers = series.flatMap(({ points }) => points.map(([, value]) => value));
    const low = Math.min(...numbers);
    const high = Math.max(...numbers);
    const down = (value) => 5 + (HEIGHT - 10) * (high > low ? (high - value) / (high - low) : 0.5);
    const several = series.length > 1;
    for (const own of series) {
      const places = own.points.map(([step, value]) => `${(WIDTH * this.#across(step)).toFixed(1)},${down(value).toFixed(1)}`);
      // a line of one point has no length: a dot
      const dot = { points: `${places[0]} ${places[0]}`, class: "line dot", stroke: own.color, "stroke-dasharray": "none" };
      own.line = svg("polyline", places.length === 1 ? dot : { points: places.join(" "), ...stroke(own) });
      own.value = h("b");
      own.entry = several ? this.#entry(own) : null;
    }
    const cursor = h("div", { class: "cursor" });
    const plot = h(
      "div",
      { class: "plot" },
      svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" }, ...series.map(({ line }) => line)),
      h("span", { class: "high" }, number(high)),
      h("span", { class: "low" }, number(low)),
      cursor,
    );
    const point = (event) => {
      const { left, top, width, height } = plot.getBoundingClientRect();
      const [first, last] = this.range;
      const step = first + ((event.clientX - left) / width) * (last - first);
      const place = HEIGHT * ((event.clientY - top) / height);
      if (event.buttons) this.onStep(step);
      else if (several) this.#bringOut(closest(series, step, (value) => Math.abs(down(value) - place)).name);
    };
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerleave", () => this.#bringOut(null));
    const head = h("div", { class: "head" }, h("span", { class: "title", title }, title), several ? null : series[0].value);
    const names = several ? h("div", { class: "names" }, ...series.map(({ entry }) => entry)) : null;
    return { element: h("section", { class: "chart" }, head, plot, names), names, series, cursor };
  }

  /** A line of the legend. */
  #entry(own) {
    const swatch = svg("svg", { viewBox: "0 0 26 8", class: "swatch" }, svg("polyline", { points: "2,4 24,4", ...stroke(own) }));
    const pointed = { onpointerenter: () => this.#bringOut(own.name), onpointerleave: () => this.#bringOut(null) };
    own.label = h("span", {}, own.name);
    return h("span", { class: "name", title: own.title, ...pointed }, swatch, own.value, " ", own.label);
  }

  /** Let one method or run stand out in all charts that have it; with null, all are alike again. */
  #bringOut(name) {
    for (const { element, names, series } of this.panels) {
      const chosen = names ? series.find((own) => own.name === name) : undefined;
      element.classList.toggle("faded", chosen !== undefined);
      for (const own of series) {
        own.line.classList.toggle("out", own === chosen);
        own.entry?.classList.toggle("out", own === chosen);
      }
      if (chosen) scrollTo(names, chosen.entry);
    }
  }
}

/** Cut the names in a legend to one line each, as wide as it is now. */
function shorten(names, series) {
  const short = fitted(series.map(({ name }) => name), names.clientWidth - NOT_NAME, names);
  for (const { label, name } of series) setText(label, short.get(name));
}

function stroke({ color, dash }) {
  return { class: "line", stroke: color, "stroke-dasharray": dash };
}

/** Scroll a list just as far as its entry is seen; scrollIntoView() would move the page as well. */
function scrollTo(list, { offsetTop, offsetHeight }) {
  list.scrollTop = Math.min(offsetTop, Math.max(list.scrollTop, offsetTop + offsetHeight - list.clientHeight));
}

/** The series whose line is nearest at `step`; distance(value) says how far a value is. */
function closest(series, step, distance) {
  const far = series.map(({ points }) => distance(drawnAt(points, step)));
  return series[far.indexOf(Math.min(...far))];
}

/** The value at `step` of the line through the points. */
function drawnAt(points, step) {
  const after = points.findIndex(([at]) => at >= step);
  if (after <= 0) return points.at(after)[1]; // before the first point, or after the last one
  const [[from, start], [to, end]] = points.slice(after - 1, after + 1);
  return start + ((end - start) * (step - from)) / (to - from);
}

/** The charts: what the page knows of the predictions and the maps, then the logged metrics. */
function collect(timelines, methods) {
  const panels = new Map();
  const known = shownAnyway(timelines);
  const several = timelines.length > 1;
  const add = (title, timeline, n, method, values) => {
    const points = timeline.looks.map(({ step }, t) => [step, values[t]]).filter(([, value]) => Number.isFinite(value));
    if (!points.length) return;
    if (!panels.has(title)) panels.set(title, []);
    const control = isControl(method, timeline);
    const style = control ? CONTROL_STYLE : lineStyle(several ? n : Math.max(0, methods.indexOf(method)));
    const [name, full] = several && !control ? [timeline.label, timeline.fullName] : [method ?? "", method ?? ""];
    panels.get(title).push({ name, title: full, points, ...style });
  };
  timelines.forEach((timeline, n) => {
    const images = Array.from({ length: timeline.count }, (_, i) => i);
    const said = timeline.looks.map((_, t) => images.map((i) => timeline.prediction(t, i)));
    add("probe accuracy", timeline, n, null, said.map((all) => mean(all.map(({ right }) => (right === null ? NaN : Number(right))))));
    add("label probability", timeline, n, null, said.map((all) => mean(all.map(({ own }) => own ?? NaN))));
    const tags = [...new Set(timeline.looks.flatMap(({ metrics }) => Object.keys(metrics)))];
    // chance is the same for all runs, and stands last in the chart of what it is compared with
    const chance = (method) => isControl(method, timeline);
    const order = (method) => (method === null ? -1 : chance(method) ? methods.length : methods.indexOf(method));
    const wanted = (method) => method === null || methods.includes(method) || (chance(method) && n === 0);
    const parts = tags.map((tag) => ({ tag, ...split(tag, timeline) }));
    const shown = parts.filter(({ own, title, method }) => wanted(method) && !(own && known.includes(title)));
    shown.sort((a, b) => order(a.method) - order(b.method));
    for (const { tag, title, method } of shown) {
      add(title, timeline, n, method, timeline.looks.map(({ metrics }) => metrics[tag] ?? NaN));
    }
    for (const method of methods) add("drift since the last look", timeline, n, method, timeline.driftSeries(method).map(mean));
  });
  return [...panels].map(([title, series]) => ({ title, series }));
}

/** The callback's metrics that say again what the page says of itself. */
function shownAnyway(timelines) {
  const drift = "similarity_to_previous"; // is 1 minus it
  return timelines.every(explainsLabels) ? [drift, "target_probability"] : [drift];
}

function explainsLabels(timeline) {
  const explained = (t, i) => timeline.looks[t].explained?.[i] ?? timeline.prediction(t, i).best;
  return timeline.looks.every((_, t) => timeline.probe.labels.every((label, i) => label === explained(t, i)));
}

function isControl(method, timeline) {
  return method === CONTROL && !timeline.methods.includes(method);
}

/** "cam/gradcam/entropy" of the callback "cam" is "entropy" of "gradcam", its `own`. */
function split(tag, timeline) {
  const parts = tag.split("/");
  const own = parts.length > 1 && parts[0] === timeline.probe.name;
  if (own) parts.shift();
  const at = own && parts[0] === CONTROL ? 0 : parts.findIndex((part) => timeline.methods.includes(part));
  const method = at < 0 ? null : parts.splice(at, 1)[0];
  return { title: parts.join("/") || tag, method, own };
}

function valueAt(points, step) {
  let value = NaN;
  for (const [at, own] of points) if (at <= step) value = own;
  return value;
}
