// Zooming into canvases that show the same place, and moving over them.

import { html, setText } from "./dom.js";

const MOST = 16; // times
const STEP = 1.5; // a button or a key

export class Zoom {
  /** @param {HTMLElement[]} panes each with one element that is larger or elsewhere when zoomed */
  constructor(panes) {
    this.panes = panes;
    this.scale = 1;
    // Where the middle of what is seen lies, as parts of the picture.
    this.x = 0.5;
    this.y = 0.5;
    this.text = html("span", { class: "zoom-text" });
    const button = (/** @type {string} */ text, /** @type {string} */ name, /** @type {number} */ by) =>
      html("button", { type: "button", title: name, "aria-label": name, onclick: () => this.by(by) }, text);
    this.element = html("div", { class: "zoom" }, button("−", "zoom out (-)", 1 / STEP), this.text, button("+", "zoom in (+)", STEP));
    for (const pane of panes) this.#listen(pane);
    this.reset();
  }

  reset() {
    [this.scale, this.x, this.y] = [1, 0.5, 0.5];
    this.#apply();
  }

  /**
   * Zoom by a factor; a place stays where it is.
   * @param {number} factor
   * @param {number} [atX] part of the pane's width
   * @param {number} [atY]
   */
  by(factor, atX = 0.5, atY = 0.5) {
    const scale = Math.max(1, Math.min(MOST, this.scale * factor));
    this.x += (atX - 0.5) * (1 / this.scale - 1 / scale);
    this.y += (atY - 0.5) * (1 / this.scale - 1 / scale);
    this.scale = scale;
    this.#apply();
  }

  /** @param {HTMLElement} pane */
  #listen(pane) {
    pane.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault(); // the dialog does not scroll
        const { left, top, width, height } = pane.getBoundingClientRect();
        this.by(2 ** (-event.deltaY / 300), (event.clientX - left) / width, (event.clientY - top) / height);
      },
      { passive: false },
    );
    pane.addEventListener("pointermove", (event) => {
      if (!event.buttons || this.scale === 1) return;
      const { width, height } = pane.getBoundingClientRect();
      this.x -= event.movementX / width / this.scale;
      this.y -= event.movementY / height / this.scale;
      this.#apply();
    });
    pane.addEventListener("dblclick", () => this.reset());
  }

  #apply() {
    const half = 0.5 / this.scale;
    this.x = Math.max(half, Math.min(1 - half, this.x));
    this.y = Math.max(half, Math.min(1 - half, this.y));
    for (const pane of this.panes) {
      pane.classList.toggle("zoomed", this.scale > 1);
      const [inner] = /** @type {Iterable<HTMLElement>} */ (pane.children);
      inner.style.transform = `scale(${this.scale}) translate(${100 * (half - this.x)}%, ${100 * (half - this.y)}%)`;
    }
    setText(this.text, `${Math.round(100 * this.scale)} %`);
  }
}
