// Maps in rows and columns on one canvas: what is drawn stays until the data or the style change, only a frame moves.

import { context2d, html, setText } from "./dom.js";

/**
 * What a matrix shows.
 * @typedef {object} MatrixContent
 * @property {string} key tells whether anything is to be drawn anew
 * @property {string} label what the matrix is, for those who do not see it
 * @property {Row[]} rows
 * @property {string[]} headings of the columns; those that find room are shown
 * @property {number} aspect width over height of a cell
 * @property {number} current the column that is marked, -1 for none
 * @property {(context: CanvasRenderingContext2D, row: number, column: number, box: Box) => void} draw
 * @property {(row: number, column: number) => string} tell what stands in a cell, in words
 * @property {(row: number, column: number) => void} open
 */

/** @typedef {{ name: string, title?: string, picture?: CanvasImageSource }} Row */
/** @typedef {{ x: number, y: number, width: number, height: number }} Box in pixels of the canvas */

const GAP = 2; // CSS pixels between cells
const HEADING_ROOM = 44; // CSS pixels that a heading takes
const [NAME_WIDTH, SMALL_NAME_WIDTH] = [132, 84]; // CSS pixels of a row's head
const NARROW = 620; // CSS pixels of a matrix with small heads
const LEAST_SIDE = 22; // CSS pixels of a cell
const [LARGE_SIDE, LARGEST_SIDE] = [64, 128]; // that few looks get: the second in a window of twenty such cells
const MANY_ROWS = 24; // more of them get cells of at most
const SIDE_OF_MANY = 32;

/**
 * @param {number} width CSS pixels
 * @param {number} rows
 */
function mostSide(width, rows) {
  return rows > MANY_ROWS ? SIDE_OF_MANY : Math.max(LARGE_SIDE, Math.min(LARGEST_SIDE, Math.floor(width / 20)));
}

/**
 * How wide cells are, and how many of them fit, where there is room of a width.
 * @param {number} width CSS pixels
 * @param {number} looks
 * @param {number} rows
 * @param {number} [most] CSS pixels of a cell
 */
export function matrixLayout(width, looks, rows, most = mostSide(width, rows)) {
  const names = width < NARROW ? SMALL_NAME_WIDTH : NAME_WIDTH;
  const room = Math.max(LEAST_SIDE, width - names);
  const side = Math.max(LEAST_SIDE, Math.min(most, Math.floor(room / Math.max(1, looks)) - GAP));
  return { names, side, columns: Math.max(1, Math.floor(room / (side + GAP))) };
}

export class Matrix {
  constructor() {
    this.key = "";
    /** @type {MatrixContent | null} */
    this.content = null;
    this.side = LEAST_SIDE;
    this.height = LEAST_SIDE;
    this.place = { row: 0, column: 0 };
    this.names = html("div", { class: "matrix-names" });
    this.headings = html("div", { class: "matrix-headings", "aria-hidden": "true" });
    this.canvas = html("canvas", {
      tabindex: 0,
      role: "application",
      "aria-roledescription": "matrix",
      onclick: (event) => this.#atPointer(event, true),
      onpointermove: (event) => this.#atPointer(event, false),
      onpointerleave: () => this.#mark(null),
      onkeydown: (event) => this.#onKey(event),
    });
    this.canvas.addEventListener("focus", () => this.#mark(this.place));
    this.canvas.addEventListener("blur", () => this.#mark(null));
    this.column = html("div", { class: "matrix-column" });
    this.cell = html("div", { class: "matrix-cell", hidden: true });
    this.told = html("p", { class: "hint matrix-told", role: "status" });
    const field = html("div", { class: "matrix-field" }, this.canvas, this.column, this.cell);
    this.element = html("div", { class: "matrix" }, this.headings, this.names, field, this.told);
  }

  /**
   * @param {MatrixContent} content
   * @param {ReturnType<typeof matrixLayout>} layout
   */
  show(content, { names, side }) {
    this.content = content;
    const ratio = globalThis.devicePixelRatio || 1;
    const key = JSON.stringify([content.key, side, names, ratio]);
    if (key !== this.key) {
      this.key = key;
      this.side = side;
      this.height = Math.round(side / content.aspect);
      this.element.style.setProperty("--names", `${names}px`);
      this.#showHeads(content);
      this.#draw(content, ratio);
      this.canvas.setAttribute("aria-label", content.label);
      this.place = { row: 0, column: content.headings.length - 1 };
    }
    this.column.hidden = content.current < 0;
    this.column.style.left = `${content.current * (side + GAP) - GAP}px`;
    this.column.style.width = `${side + 2 * GAP}px`;
  }

  /** @param {MatrixContent} content */
  #showHeads({ rows, headings }) {
    const step = Math.ceil(HEADING_ROOM / (this.side + GAP));
    const shown = headings.map((text, n) => {
      if (n % step && n !== headings.length - 1) return null;
      if (n > headings.length - 1 - step && n !== headings.length - 1) return null; // the last one has the room
      return html("span", { style: `left: ${n * (this.side + GAP)}px; width: ${this.side}px` }, html("span", {}, text));
    });
    this.headings.replaceChildren(...shown.flatMap((heading) => heading ?? []));
    this.names.replaceChildren(...rows.map((row) => this.#head(row)));
  }

  /** @param {Row} row */
  #head({ name, title = name, picture }) {
    const head = html("div", { title, style: `height: ${this.height + GAP}px` });
    if (picture) {
      const canvas = html("canvas", { width: 2 * this.side, height: 2 * this.height, style: `width: ${Math.min(this.side, LARGE_SIDE)}px` });
      context2d(canvas).drawImage(picture, 0, 0, canvas.width, canvas.height);
      head.append(canvas);
    }
    head.append(html("span", {}, name));
    return head;
  }

  /**
   * @param {MatrixContent} content
   * @param {number} ratio
   */
  #draw({ rows, headings, draw }, ratio) {
    const { canvas, side, height } = this;
    const width = headings.length * (side + GAP) - GAP;
    canvas.style.width = `${width}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round((rows.length * (height + GAP) - GAP) * ratio);
    const context = context2d(canvas);
    const box = { x: 0, y: 0, width: Math.round(side * ratio), height: Math.round(height * ratio) };
    for (let row = 0; row < rows.length; row++) {
      box.y = Math.round(row * (height + GAP) * ratio);
      for (let column = 0; column < headings.length; column++) {
        box.x = Math.round(column * (side + GAP) * ratio);
        draw(context, row, column, box);
      }
    }
  }

  /**
   * Mark a cell and say what stands in it; with null none is marked.
   * @param {{ row: number, column: number } | null} place
   */
  #mark(place) {
    this.cell.hidden = !place;
    if (!place || !this.content) return;
    const { row, column } = place;
    this.cell.style.cssText = `left: ${column * (this.side + GAP)}px; top: ${row * (this.height + GAP)}px; width: ${this.side}px; height: ${this.height}px`;
    setText(this.told, this.content.tell(row, column));
  }

  /**
   * @param {MouseEvent} event
   * @param {boolean} open
   */
  #atPointer(event, open) {
    if (!this.content) return;
    const row = Math.floor(event.offsetY / (this.height + GAP));
    const column = Math.floor(event.offsetX / (this.side + GAP));
    if (!this.#has(row, column)) return;
    this.#mark({ row, column });
    if (!open) return;
    this.place = { row, column };
    this.content.open(row, column);
  }

  /**
   * @param {number} row
   * @param {number} column
   */
  #has(row, column) {
    return Boolean(this.content?.rows[row] && column >= 0 && column < this.content.headings.length);
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.content) return;
    const { row, column } = this.place;
    const last = this.content.headings.length - 1;
    /** @type {Record<string, [row: number, column: number]>} */
    const places = {
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      Home: [row, 0],
      End: [row, last],
    };
    if (event.key === "Enter" || event.key === " ") this.content.open(row, column);
    else if (!(event.key in places)) return;
    event.preventDefault(); // the player's keys are the same
    const next = places[event.key];
    if (!next || !this.#has(...next)) return;
    this.place = { row: next[0], column: next[1] };
    this.#mark(this.place);
    this.cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}
