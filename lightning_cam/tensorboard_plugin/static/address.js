// What is shown, in the fragment of the page's address: a link leads to it, and Back goes to what was shown before.

import { html, setText } from "./dom.js";
import { ALIGNED, DEFAULTS, SCALES, SHOWN, SORTS } from "./state.js";
import { VIEWS } from "./views.js";

/** @typedef {import("./state.js").State} State */

const IN_TENSORBOARD = "p.cam_timeline.at"; // TensorBoard keeps a plugin's part of its own fragment under such a name
const REPLACE_AFTER = 300; // milliseconds: browsers refuse an address that changes with each step of a slider
const TOLD_FOR = 2000; // milliseconds for which it is said that the link was copied
const LONGEST = 16384; // letters of a fragment that is read

/** @type {(text: string) => string | undefined} */
const asText = (text) => text;
/** @type {(text: string) => number | undefined} */
const asNumber = (text) => (/^-?\d{1,15}$/.test(text) ? Number(text) : undefined);
/** @type {(text: string) => number | undefined} */
const asCount = (text) => (/^\d{1,9}$/.test(text) ? Number(text) : undefined);
/** @type {(text: string) => boolean | undefined} */
const asSwitch = (text) => (text === "1" ? true : undefined);
/** @type {(names: Record<string, string>) => (text: string) => string | undefined} */
const oneOf = (names) => (text) => (Object.hasOwn(names, text) ? text : undefined);

/**
 * What the address holds of the state: the name there, the state's key, how its text is read (undefined where it cannot
 * be so), and the views that it belongs to, by default all.
 * @type {[name: string, key: keyof State, read: (text: string) => any, views?: string[]][]}
 */
const FIELDS = [
  ["view", "view", oneOf(VIEWS)],
  ["run", "timeline", asText],
  ["method", "method", asText],
  ["step", "step", asNumber],
  ["image", "image", asCount, ["film", "depth"]],
  ["plane", "plane", asCount],
  ["versus", "reference", asNumber, ["diff"]],
  ["b-run", "otherRun", asText, ["pair"]],
  ["b-method", "otherMethod", asText, ["pair"]],
  ["b-step", "otherStep", asNumber, ["pair"]],
  ["swipe", "swipe", asSwitch, ["pair"]],
  ["align", "align", oneOf(ALIGNED), ["runs"]],
  ["class", "label", asCount],
  ["predicted", "predicted", asCount],
  ["show", "show", oneOf(SHOWN)],
  ["sort", "sort", oneOf(SORTS)],
  ["sorted-at", "sortStep", asNumber],
  ["scale", "scale", oneOf(SCALES)],
  ["signed", "signed", asSwitch],
  ["weak", "squareRoot", asSwitch],
];

/**
 * The fragment of what is shown. Of a page that follows a run it names no step: it is the newest one.
 * @param {State} state
 */
export function encodeState(state) {
  const query = new URLSearchParams();
  for (const [name, key, , views] of FIELDS) {
    const value = state[key];
    if (key === "step" && state.follow) continue;
    if (views && !views.includes(state.view)) continue;
    if (key === "view" || value !== DEFAULTS[key]) query.set(name, value === true ? "1" : String(value));
  }
  if (state.view === "runs") for (const run of state.runs ?? []) query.append("runs", run);
  return query.toString();
}

/**
 * What a fragment says of the state; null where it says nothing. What it does not name has its default.
 * @param {string} fragment with or without its "#"
 * @returns {Partial<State> | null}
 */
export function decodeState(fragment) {
  const text = fragment.replace(/^#/, "");
  if (!text || text.length > LONGEST) return null;
  const query = new URLSearchParams(text);
  /** @type {Record<string, any>} */
  const state = {};
  let known = false;
  for (const [name, key, read] of FIELDS) {
    const value = query.has(name) ? read(query.get(name) ?? "") : undefined;
    known ||= value !== undefined;
    state[key] = value ?? DEFAULTS[key];
  }
  if (!known) return null;
  const runs = query.getAll("runs");
  state.runs = runs.length ? runs : null;
  state.follow = state.step === null;
  return state;
}

/** The address of this page, and of TensorBoard's around it. */
export class Address {
  /** @param {(state: Partial<State>) => void} onBack is called with what is to be shown then */
  constructor(onBack) {
    this.written = ""; // the fragment that the address has, and the one that it is to have
    this.due = "";
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.pending = undefined;
    addEventListener("hashchange", () => {
      const fragment = location.hash.slice(1);
      if (fragment === this.written) return; // this page wrote it
      const state = decodeState(fragment);
      clearTimeout(this.pending);
      this.pending = undefined;
      this.written = this.due = fragment;
      if (state) onBack(state);
    });
  }

  /** What the address asks for, TensorBoard's where this page's own says nothing. */
  read() {
    return decodeState(location.hash) ?? decodeState(new URLSearchParams(outerFragment()).get(IN_TENSORBOARD) ?? "");
  }

  /**
   * @param {State} state
   * @param {boolean} isNew whether Back is to lead to what was shown until now
   */
  write(state, isNew) {
    const fragment = encodeState(state);
    if (!isNew || !this.written) {
      this.due = fragment;
      this.pending ??= setTimeout(() => this.#replace(), this.written ? REPLACE_AFTER : 0);
      return;
    }
    this.#replace();
    if (fragment !== this.written) location.hash = this.written = this.due = fragment;
  }

  /** Let the address say what was shown last. */
  #replace() {
    clearTimeout(this.pending);
    this.pending = undefined;
    if (this.due === this.written) return;
    this.written = this.due;
    location.replace(`${location.href.split("#")[0]}#${this.due}`);
  }

  /**
   * The address that leads to what is shown now, its step named.
   * @param {State} state
   */
  link(state) {
    const fragment = encodeState({ ...state, follow: false });
    const host = outerAddress();
    if (!host) return `${location.href.split("#")[0]}#${fragment}`;
    return `${host}#cam_timeline&${IN_TENSORBOARD}=${encodeURIComponent(fragment)}`;
  }
}

/** The address of TensorBoard's page around this one, without its fragment; empty where there is none of TensorBoard's. */
function outerAddress() {
  try {
    return window.parent === window || !location.pathname.endsWith("/plugin_entry.html") ? "" : window.parent.location.href.split("#")[0];
  } catch {
    return ""; // a page of another origin
  }
}

function outerFragment() {
  return outerAddress() ? window.parent.location.hash.slice(1) : "";
}

/**
 * A button that copies the link.
 * @param {() => string} link
 */
export function copyButton(link) {
  const told = html("span", {}, "copy link");
  const button = html("button", { type: "button", class: "copy", title: "copy the address of the current view", "aria-live": "polite" }, told);
  button.addEventListener("click", async () => {
    setText(told, (await copyText(link())) ? "link copied" : "not copied");
    setTimeout(() => setText(told, "copy link"), TOLD_FOR);
  });
  return button;
}

/**
 * Put a text on the clipboard; return whether that went well. Without https, only the older way is there.
 * @param {string} text
 */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = html("textarea", { class: "unseen", "aria-hidden": "true" }, text);
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    return copied;
  }
}
