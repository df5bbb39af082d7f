// Pins and notes on images: kept in the browser, and in a report that is saved with them.

import { html } from "./dom.js";

/** What somebody said of one image. @typedef {{ pinned: boolean, note: string }} Note */

const ELEMENT = "cam-notes"; // of a saved report, that holds them
const LONGEST = 2000; // letters of a note
const NONE = Object.freeze({ pinned: false, note: "" });

export class Notes {
  /** @param {() => void} onChange */
  constructor(onChange) {
    this.onChange = onChange;
    /** @type {string | null} under which they are stored; known with the first list of records */
    this.key = null;
    /** @type {Map<string, Note>} by the image's hash */
    this.byHash = notesFrom(document.getElementById(ELEMENT)?.textContent ?? "");
  }

  /**
   * Add those that this browser has kept; of an image that has one already, the browser's counts.
   * @param {string} key
   */
  restore(key) {
    this.key = `${key} notes`;
    try {
      for (const [hash, note] of notesFrom(localStorage.getItem(this.key) ?? "")) this.byHash.set(hash, note);
    } catch {
      // no storage (a private window, a sandbox): they last as long as the page
    }
  }

  /**
   * @param {string} hash
   * @returns {Readonly<Note>}
   */
  of(hash) {
    return this.byHash.get(hash) ?? NONE;
  }

  /**
   * @param {string} hash
   * @param {Partial<Note>} patch
   */
  change(hash, patch) {
    this.byHash.set(hash, { ...this.of(hash), ...patch });
    try {
      if (this.key) localStorage.setItem(this.key, this.#text());
    } catch {
      // as above
    }
    this.onChange();
  }

  #text() {
    return JSON.stringify(Object.fromEntries(this.byHash));
  }

  /**
   * The text of a report with the notes in it.
   * @param {string} page the report's
   */
  inReport(page) {
    const report = new DOMParser().parseFromString(page, "text/html");
    report.getElementById(ELEMENT)?.remove();
    const element = report.createElement("script");
    element.id = ELEMENT;
    element.type = "application/json";
    element.textContent = this.#text().replaceAll("<", "\\u003c"); // nothing in it ends the element
    report.body.prepend(element);
    return `<!DOCTYPE html>\n${report.documentElement.outerHTML}`;
  }
}

/**
 * Notes from their text; what is none is left out.
 * @param {string} text
 * @returns {Map<string, Note>}
 */
export function notesFrom(text) {
  try {
    const stored = /** @type {Record<string, any>} */ (JSON.parse(text || "{}") ?? {});
    const known = Object.entries(stored).filter(([, note]) => typeof note?.pinned === "boolean" && typeof note.note === "string");
    return new Map(known.map(([hash, { pinned, note }]) => [hash, { pinned, note: note.slice(0, LONGEST) }]));
  } catch {
    return new Map();
  }
}

/** The dialog's fields for one image's pin and note. */
export class NoteFields {
  /** @param {Notes} notes */
  constructor(notes) {
    this.notes = notes;
    this.hash = "";
    this.pin = html("button", { type: "button", class: "pin", onclick: () => notes.change(this.hash, { pinned: !notes.of(this.hash).pinned }) });
    this.note = html("textarea", { rows: 1, maxlength: LONGEST, placeholder: "note on this image", "aria-label": "note on this image" });
    this.note.addEventListener("input", () => notes.change(this.hash, { note: this.note.value }));
    this.note.addEventListener("keydown", (event) => event.key !== "Escape" && event.stopPropagation()); // letters, and no keys of the page
    this.element = html("div", { class: "note-fields" }, this.pin, this.note);
  }

  /** @param {string} hash */
  show(hash) {
    this.hash = hash;
    const { pinned, note } = this.notes.of(hash);
    this.pin.textContent = pinned ? "★ pinned" : "☆ pin";
    this.pin.setAttribute("aria-pressed", String(pinned));
    if (this.note.value !== note) this.note.value = note;
  }
}
