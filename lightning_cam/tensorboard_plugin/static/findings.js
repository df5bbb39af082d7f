// What was found in a training, in sentences: the first thing on the page.

import { html } from "./dom.js";
import { readable } from "./text.js";

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

/** The newest findings at or before a step, of each record that is shown. */
export class Findings {
  /** @param {(step: number) => void} go */
  constructor(go) {
    this.go = go;
    this.shown = "";
    this.element = html("section", { class: "findings", "aria-label": "What was found", hidden: true });
  }

  /**
   * @param {Timeline[]} timelines
   * @param {number | null} step
   */
  show(timelines, step) {
    const found = timelines.map((timeline) => ({ timeline, look: newestFound(timeline, step ?? Infinity) }));
    const key = JSON.stringify(found.map(({ timeline, look }) => [timeline.id, timeline.revision, look?.step]));
    if (key === this.shown) return;
    this.shown = key;
    const lists = found.flatMap(({ timeline, look }) => (look ? [this.#list(timelines.length > 1 ? timeline.label : "", look)] : []));
    this.element.replaceChildren(...lists);
    this.element.hidden = !lists.length;
  }

  /**
   * @param {string} name
   * @param {import("./record.js").Look} look
   */
  #list(name, look) {
    const items = (look.findings ?? []).map((finding) => this.#item(finding));
    return html("ul", {}, name ? html("li", { class: "run" }, name) : null, ...items);
  }

  /** @param {Finding} finding */
  #item({ text, status, since, images }) {
    const links = [
      since === null ? null : html("button", { type: "button", onclick: () => this.go(since) }, `step ${since.toLocaleString("en-US")}`),
      images.length ? html("span", { class: "images" }, `validation images ${images.join(", ")}`) : null,
    ];
    return html("li", { class: status === "confirmed" ? "confirmed" : "" }, readable(text), " ", ...links);
  }
}

/**
 * The newest look at or before a step at which something was found, or nothing unusual.
 * @param {Timeline} timeline
 * @param {number} step
 */
export function newestFound(timeline, step) {
  return timeline.looks.filter((look) => look.findings && look.step <= step).at(-1) ?? null;
}
