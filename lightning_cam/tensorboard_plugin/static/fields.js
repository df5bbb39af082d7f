// The settings' fields: a label and an input, bound to the state.

import { html, setText } from "./dom.js";

/** @typedef {import("./main.js").App} App */
/** @typedef {import("./state.js").State} State */

/**
 * The keys of the state whose values are of a type.
 * @template Type
 * @typedef {{ [Key in keyof State]: State[Key] extends Type ? Key : never }[keyof State]} KeyOf
 */

/**
 * An option's value, its text, and its text in full where it differs.
 * @typedef {readonly [value: any, text: string, fullText?: string]} Option
 */

/**
 * @typedef {object} Choice
 * @property {HTMLElement} element
 * @property {(options: Option[], value: any) => void} show the options, and the value that is chosen
 */

/** @typedef {{ element: HTMLElement, show: () => void }} Field shows the state's value */

/**
 * A select; its options may change.
 * @param {string} name
 * @param {string} title
 * @param {(value: any) => void} onChange is called with the value of the option that is chosen
 * @returns {Choice}
 */
export function choice(name, title, onChange) {
  /** @type {any[]} kept as they are: an <option> would make strings of them */
  let values = [];
  let shown = ""; // an <option> gives back another text than it was given: without spaces in a row
  const select = html("select", { name, onchange: () => onChange(values[select.selectedIndex]) });
  /** @type {Choice["show"]} */
  const show = (options, value) => {
    values = options.map(([value]) => value);
    const texts = options.map(([, text]) => text);
    const key = JSON.stringify(texts);
    if (shown !== key) {
      shown = key;
      select.replaceChildren(...texts.map((text) => html("option", {}, text)));
    }
    select.selectedIndex = Math.max(0, values.indexOf(value));
    const [, text = "", fullText = text] = options[select.selectedIndex] ?? [];
    select.title = fullText; // the select may be too narrow for its text
  };
  return { element: html("label", { class: "row" }, html("span", {}, title), select), show };
}

/**
 * A slider for a number of the state.
 * @param {App} app
 * @param {KeyOf<number>} name
 * @param {string} title
 * @param {{ min: number, max: number, step: number }} range
 * @param {(value: number) => string} format
 * @param {Partial<State>} [more] what else changes with it
 * @returns {Field}
 */
export function slider(app, name, title, { min, max, step }, format, more = {}) {
  const onInput = () => app.change({ [name]: Number(input.value), ...more });
  const input = html("input", { type: "range", name, min, max, step, oninput: onInput });
  const value = html("span", { class: "number" });
  const show = () => {
    input.value = String(app.state[name]);
    setText(value, format(app.state[name]));
  };
  return { element: html("label", { class: "row" }, html("span", {}, title), input, value), show };
}

/**
 * A box for a switch of the state.
 * @param {App} app
 * @param {KeyOf<boolean>} name
 * @param {string} title
 * @returns {Field}
 */
export function checkbox(app, name, title) {
  const input = html("input", { type: "checkbox", name, onchange: () => app.change({ [name]: input.checked }) });
  return { element: html("label", { class: "check" }, input, title), show: () => (input.checked = app.state[name]) };
}

/**
 * Fields under a heading.
 * @param {string} title
 * @param {(HTMLElement | { element: HTMLElement })[]} fields
 */
export function group(title, ...fields) {
  const elements = fields.map((field) => ("element" in field ? field.element : field));
  return html("section", { class: "group" }, html("h2", {}, title), ...elements);
}
