// The metrics over steps: one small chart per metric, each with its own range, all with one cursor.

import { html, setText, svg, textRuler } from "./dom.js";
import { shortenNames } from "./names.js";
import { collectCharts, interpolatedAt, rangeOf, thinnedPoints, valueAt } from "./series.js";
import { formatNumber, readable } from "./text.js";
import { wordsOf } from "./words.js";

/** @typedef {import("./series.js").Series} Series */
/** @typedef {import("./timeline.js").Timeline} Timeline */

const HEIGHT = 64;
const WIDTH = 240;
const [CHART_WIDTH, CHART_GAP] = [150, 14]; // CSS pixels, as in style.css
const COLUMNS = 2 * WIDTH; // that can be told apart of a line
const MARGIN = 5; // above and below the lines
const SEEN_NAMES = 3; // of a legend without scrolling
const LEGEND_OFFSET = 90; // pixels of a legend's line before the name: the swatch, the value

/**
 * A line of a chart with its elements.
 * @typedef {Series & { line: SVGPolylineElement, value: HTMLElement, label: HTMLElement, entry: HTMLElement }} PlottedSeries
 */

/**
 * A chart with its elements; `legend` is null where it has one line.
 * @typedef {{ element: HTMLElement, legend: HTMLElement | null, series: PlottedSeries[], cursor: HTMLElement }} Panel
 */

export class Charts {
  /**
   * @param {(step: number) => void} onStep is called with the step under the pointer
   * @param {() => void} onMore is called where all charts are asked for, or one row again
   */
  constructor(onStep, onMore) {
    this.onStep = onStep;
    this.list = html("div", { class: "charts", role: "region", "aria-label": "metrics", tabindex: 0 });
    this.more = html("button", { type: "button", class: "more", hidden: true, onclick: onMore });
    this.element = html("div", { class: "chart-rows" }, this.list, this.more);
    new ResizeObserver(() => this.#showMore()).observe(this.list);
    this.all = false;
    this.key = this.shownKey = "";
    this.firstStep = 0;
    this.lastStep = 0;
    /** @type {Panel[]} */
    this.panels = [];
  }

  /**
   * Draw what has changed.
   * @param {Timeline[]} timelines those shown together
   * @param {string[]} methods those shown
   * @param {number[]} steps all of the timelines'
   * @param {number} step the current one
   * @param {boolean} all charts, not those of one row alone
   */
  show(timelines, methods, steps, step, all) {
    const key = JSON.stringify([timelines.map(({ id, revision, label }) => [id, revision, label]), methods]);
    if (key !== this.key) {
      this.key = key;
      this.firstStep = steps[0];
      this.lastStep = steps[steps.length - 1];
      this.panels = collectCharts(timelines, methods).map((chart) => this.#panel(chart));
      this.list.replaceChildren(...this.panels.map(({ element }) => element));
      for (const { legend, series } of this.panels) if (legend) shortenLegend(legend, series);
    }
    if (all !== this.all || key !== this.shownKey) {
      this.all = all;
      this.shownKey = key;
      this.list.classList.toggle("one-row", !all);
      this.#showMore();
    }
    for (const panel of this.panels) {
      panel.cursor.style.left = `${100 * this.#across(step)}%`;
      for (const { value, points } of panel.series) setText(value, formatNumber(valueAt(points, step)));
    }
  }

  /** Hide the charts that the one row has no room for, and say how many there are. */
  #showMore() {
    const room = Math.max(1, Math.floor((this.list.clientWidth + CHART_GAP) / (CHART_WIDTH + CHART_GAP)));
    this.panels.forEach(({ element }, n) => (element.hidden = !this.all && n >= room));
    this.more.hidden = this.panels.length <= room;
    setText(this.more, this.all ? "one row of metrics" : `all ${this.panels.length} metrics`);
  }

  /**
   * Where a step is between the first (0) and the last (1).
   * @param {number} step
   */
  #across(step) {
    const range = this.lastStep - this.firstStep;
    return range > 0 ? (step - this.firstStep) / range : 0.5;
  }

  /**
   * @param {import("./series.js").Chart} chart
   * @returns {Panel}
   */
  #panel({ title, series }) {
    const { low, high } = rangeOf(series);
    // Halved, as the difference of two large numbers may be none.
    const share = (/** @type {number} */ value) => (high > low ? (high / 2 - value / 2) / (high / 2 - low / 2) : 0.5);
    const down = (/** @type {number} */ value) => MARGIN + (HEIGHT - 2 * MARGIN) * share(value);
    const plotted = series.map((one) => this.#plotted(one, down));
    const several = series.length > 1;
    const cursor = html("div", { class: "cursor" });
    const plot = html(
      "div",
      { class: "plot" },
      svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${readable(title)} over the steps, from ${formatNumber(low)} to ${formatNumber(high)}` }, ...plotted.map(({ line }) => line)),
      html("span", { class: "high" }, formatNumber(high)),
      html("span", { class: "low" }, formatNumber(low)),
      cursor,
    );
    this.#listen(plot, several ? plotted : [], down);
    const head = html("div", { class: "head" }, html("span", { class: "title", "data-title": readable(title), title: wordsOf(title) }, readable(title)), several ? null : plotted[0].value);
    const legend = several ? html("div", { class: "names", tabindex: plotted.length > SEEN_NAMES ? 0 : null, role: "group", "aria-label": `lines of ${readable(title)}` }, ...plotted.map(({ entry }) => entry)) : null;
    return { element: html("section", { class: "chart" }, head, plot, legend ?? html("div"), html("p", { class: "hint words" }, wordsOf(title))), legend, series: plotted, cursor };
  }

  /**
   * Make the line and the legend's entry of a series.
   * @param {Series} series
   * @param {(value: number) => number} down where a value is, in pixels from the top
   * @returns {PlottedSeries}
   */
  #plotted(series, down) {
    const { name, fullName, points } = series;
    const places = thinnedPoints(points, COLUMNS).map(([step, value]) => `${(WIDTH * this.#across(step)).toFixed(1)},${down(value).toFixed(1)}`);
    // a line of one point has no length: a dot
    const dot = { points: `${places[0]} ${places[0]}`, class: "line dot", stroke: series.color, "stroke-dasharray": "none" };
    const line = svg("polyline", places.length === 1 ? dot : { points: places.join(" "), ...strokeProps(series) });
    const swatch = svg("svg", { viewBox: "0 0 26 8", class: "swatch", "aria-hidden": "true" }, svg("polyline", { points: "2,4 24,4", ...strokeProps(series) }));
    const value = html("b");
    const label = html("span", {}, readable(name));
    const listeners = { onpointerenter: () => this.#highlight(name), onpointerleave: () => this.#highlight(null) };
    const entry = html("span", { class: "name", title: readable(fullName), ...listeners });
    // With a single series there is no legend: the value stands in the chart's head.
    entry.append(swatch, value, " ", label);
    return { ...series, line, value, label, entry };
  }

  /**
   * Let the pointer move the slider and highlight the line that it is next to.
   * @param {HTMLElement} plot
   * @param {PlottedSeries[]} highlighted those to choose from
   * @param {(value: number) => number} down
   */
  #listen(plot, highlighted, down) {
    const point = (/** @type {PointerEvent} */ event) => {
      const { left, top, width, height } = plot.getBoundingClientRect();
      const step = this.firstStep + ((event.clientX - left) / width) * (this.lastStep - this.firstStep);
      const y = HEIGHT * ((event.clientY - top) / height);
      if (event.buttons) this.onStep(step);
      else if (highlighted.length) this.#highlight(nearest(highlighted, step, (value) => Math.abs(down(value) - y)).name);
    };
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerleave", () => this.#highlight(null));
  }

  /**
   * Let one method or run stand out in all charts that have it; with null, all are alike again.
   * @param {string | null} name
   */
  #highlight(name) {
    for (const { element, legend, series } of this.panels) {
      const chosen = legend ? series.find((one) => one.name === name) : undefined;
      element.classList.toggle("faded", chosen !== undefined);
      for (const one of series) {
        one.line.classList.toggle("out", one === chosen);
        one.entry.classList.toggle("out", one === chosen);
      }
      if (legend && chosen) scrollTo(legend, chosen.entry);
    }
  }
}

/**
 * Cut the names in a legend to one line each, as wide as it is now.
 * @param {HTMLElement} legend
 * @param {PlottedSeries[]} series
 */
function shortenLegend(legend, series) {
  const names = series.map(({ name }) => readable(name));
  const short = shortenNames(names, legend.clientWidth - LEGEND_OFFSET, textRuler(legend));
  series.forEach(({ label }, n) => setText(label, short.get(names[n]) ?? names[n]));
}

/** @param {import("./colors.js").LineStyle} style */
function strokeProps({ color, dash }) {
  return { class: "line", stroke: color, "stroke-dasharray": dash };
}

/**
 * Scroll a list just as far as its entry is seen; scrollIntoView() would move the page as well.
 * @param {HTMLElement} list
 * @param {HTMLElement} entry
 */
function scrollTo(list, { offsetTop, offsetHeight }) {
  list.scrollTop = Math.min(offsetTop, Math.max(list.scrollTop, offsetTop + offsetHeight - list.clientHeight));
}

/**
 * The series whose line is nearest at `step`.
 * @param {PlottedSeries[]} series
 * @param {number} step
 * @param {(value: number) => number} distance how far a value is
 */
function nearest(series, step, distance) {
  const distances = series.map(({ points }) => distance(interpolatedAt(points, step)));
  return series[distances.indexOf(Math.min(...distances))];
}
