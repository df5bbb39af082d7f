// The tiles on the page: kept and redrawn rather than made anew, and drawn only while they can be seen.

import { overlayTable } from "./colors.js";
import { h, number, percent, setText } from "./dom.js";
import { drawImage, drawMap, drawNoEvidence, drawOutline } from "./draw.js";
import { fitted } from "./names.js";
import { extent } from "./record.js";
import { activeColormap, describeValue, isSigned, tileValues } from "./scale.js";

const NARROW = 140; // a tile of fewer pixels has no room for more than a name: the bar says the probability
const MARGINS = 20; // pixels of a caption's width without text, and what "✓ " and " · >99 %" take
const MARK = 16;
const PROBABILITY = 58;

/** How maps are drawn now: {table, colormap, smooth}. */
export function drawingStyle(state) {
  const colormap = activeColormap(state);
  return { colormap, table: overlayTable(colormap, state), smooth: state.smooth };
}

/** Draw one tile into a canvas; return what it shows (see tileValues), or null for a plain image. */
export function drawTile(canvas, state, timelines, tile, style) {
  const { timeline, i } = tile;
  drawImage(canvas, timeline.images[i]);
  const shown = tile.method === null ? null : tileValues(state, timelines, tile);
  if (shown?.missing) drawNoEvidence(canvas, shown.missing);
  else if (shown) drawMap(canvas, shown.values, shown.rows, shown.columns, style);
  if (state.outlines && timeline.outlines[i]) drawOutline(canvas, timeline.outlines[i]);
  return shown;
}

export class TileBoard {
  constructor(app, onOpen) {
    this.app = app;
    this.onOpen = onOpen;
    this.pool = [];
    this.slots = new Map(); // figure -> slot
    this.headings = h("div", { class: "headings" });
    this.board = h("div", { class: "board" });
    this.note = h("p", { class: "note" });
    this.tip = h("div", { class: "tip", role: "tooltip", hidden: true });
    this.element = h("div", { class: "tiles" }, this.headings, this.board, this.note, this.tip);
    this.observer = new IntersectionObserver((entries) => this.#seen(entries), { rootMargin: "300px" });
  }

  /** Show what `arrange` returned. */
  show({ timelines, headings, tiles, note }) {
    const { state } = this.app;
    this.timelines = timelines;
    this.style = drawingStyle(state);
    const columns = headings ? `repeat(${headings.length}, ${state.size}px)` : `repeat(auto-fill, ${state.size}px)`;
    this.board.style.gridTemplateColumns = columns;
    this.#showHeadings(headings, columns);
    setText(this.note, note);
    while (this.pool.length < tiles.length) this.pool.push(this.#make());
    this.#fitNames();
    this.pool.forEach((slot, n) => this.#put(slot, tiles[n]));
  }

  /** Cut the class names to what fits into a caption's first line, and into its second between the mark and the rest. */
  #fitNames() {
    const { size } = this.app.state;
    const key = JSON.stringify([size, this.timelines.map(({ id, revision }) => [id, revision])]);
    if (key === this.fittedFor || !this.pool.length) return;
    this.fittedFor = key;
    const names = [...new Set(this.timelines.flatMap(({ spokenClasses }) => spokenClasses))];
    const [{ first, second }] = this.pool;
    this.short = {
      first: fitted(names, size - MARGINS, first),
      second: fitted(names, size - MARGINS - MARK - (size < NARROW ? 0 : PROBABILITY), second),
    };
  }

  #showHeadings(headings, columns) {
    this.headings.style.gridTemplateColumns = columns;
    this.headings.hidden = !headings;
    const texts = (headings ?? []).map(({ title, step }) => (step === undefined ? title : `${title}\nstep ${number(step)}`));
    while (this.headings.children.length > texts.length) this.headings.lastChild.remove();
    texts.forEach((text, n) => {
      const heading = this.headings.children[n] ?? this.headings.appendChild(h("div"));
      setText(heading, text);
      heading.title = headings[n].fullName ?? headings[n].title;
    });
  }

  #make() {
    const slot = {
      canvas: h("canvas"),
      bar: h("div", { class: "bar" }),
      strength: h("div", { class: "strength", title: "largest value, as a share of this image's largest at any step" }),
      first: h("div", { class: "first" }),
      second: h("div", { class: "second" }),
      visible: false,
      tile: null,
    };
    const open = () => slot.tile && this.onOpen(slot.tile);
    const openByKey = (event) => {
      event.preventDefault(); // or the same key press would close: the focus goes to the dialog's ✕
      open();
    };
    slot.figure = h(
      "figure",
      {
        class: "tile",
        role: "button",
        tabindex: 0,
        onclick: open,
        onkeydown: (event) => event.key === "Enter" && openByKey(event),
        onpointermove: (event) => this.#hover(slot, event),
        onpointerleave: () => (this.tip.hidden = true),
      },
      h("div", { class: "picture" }, slot.canvas, slot.strength),
      h("div", { class: "track" }, slot.bar),
      h("figcaption", {}, slot.first, slot.second),
    );
    this.slots.set(slot.figure, slot);
    this.board.append(slot.figure);
    this.observer.observe(slot.figure);
    return slot;
  }

  #put(slot, tile) {
    slot.tile = tile ?? null;
    slot.figure.hidden = tile === undefined;
    slot.figure.classList.toggle("empty", tile === null);
    if (tile === undefined) return;
    const { state } = this.app;
    const ratio = globalThis.devicePixelRatio || 1;
    const aspect = (tile ?? this.pool[0].tile).timeline.aspect;
    const width = Math.round(state.size * ratio);
    const height = Math.round(width / aspect);
    if (slot.canvas.width !== width || slot.canvas.height !== height) {
      slot.canvas.width = width;
      slot.canvas.height = height;
    }
    if (tile) caption(slot, tile, this.short, state.size < NARROW);
    if (slot.visible) this.#draw(slot);
    else slot.stale = true;
  }

  #draw(slot) {
    slot.stale = false;
    if (!slot.tile) return;
    slot.shown = drawTile(slot.canvas, this.app.state, this.timelines, slot.tile, this.style);
    slot.figure.dataset.missing = slot.shown?.missing ?? "";
    slot.strength.style.height = `${100 * strength(slot.tile, isSigned(this.app.state))}%`;
  }

  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const slot = this.slots.get(target);
      slot.visible = isIntersecting;
      if (isIntersecting && slot.stale) this.#draw(slot);
    }
  }

  #hover(slot, event) {
    hover(this.tip, this.app.state, slot.canvas, slot.tile, slot.shown, event);
  }
}

/** A map's largest value as a share of the image's largest at any step: what a scale per image does not show. */
function strength({ timeline, t, i, method }, signed) {
  const map = timeline.looks[t].maps[method];
  const peak = map ? timeline.peaks(method, signed)[i] : 0;
  return peak ? extent(map, i, signed) / peak : 0;
}

/** Show the value under the pointer in `tip`. */
export function hover(tip, state, canvas, tile, shown, event) {
  const place = canvas.getBoundingClientRect();
  const x = (event.clientX - place.left) / place.width;
  const y = (event.clientY - place.top) / place.height;
  tip.hidden = !shown || Boolean(shown.missing) || x < 0 || y < 0 || x >= 1 || y >= 1;
  if (tip.hidden) return;
  const row = Math.floor(y * shown.rows);
  const column = Math.floor(x * shown.columns);
  const { value, text } = describeValue(state, tile, shown, row, column);
  setText(tip, `${value === null ? "" : `${number(value)} · `}${text}\nrow ${row + 1}, column ${column + 1}`);
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - 170)}px`;
  tip.style.top = `${Math.min(event.clientY + 16, innerHeight - 50)}px`;
}

/** Write the two lines; `short` has the class names as they fit into each, the title has all. */
function caption(slot, tile, short, narrow) {
  const { timeline, t, i } = tile;
  const { best, share, label, right } = timeline.prediction(t, i);
  const name = label < 0 ? `image ${i + 1}` : timeline.className(label);
  const look = timeline.looks[t];
  const verdict = right === null ? "" : right ? "✓ " : "✗ ";
  const plain = tile.caption === "label";
  const said = best === null ? null : timeline.className(best);
  const predicted = best === null ? "" : `${verdict}${said} · ${percent(share)}`;
  const step = `step ${number(look.step)}`;
  const place = `${step} · epoch ${look.epoch}`;
  if (tile.caption === "step") setLine(slot.first, narrow ? step : place, place);
  else setLine(slot.first, short.first.get(name) ?? name, name);
  if (plain) setLine(slot.second, `image ${i + 1}`, "");
  else if (best === null) setLine(slot.second, "", "");
  else setLine(slot.second, `${verdict}${short.second.get(said)}${narrow ? "" : ` · ${percent(share)}`}`, predicted);
  slot.figure.dataset.verdict = plain || right === null ? "none" : right ? "right" : "wrong";
  slot.figure.classList.toggle("current", Boolean(tile.current));
  slot.bar.style.width = plain || share === null ? "0" : `${100 * share}%`;
  const title = `${name}${predicted && !plain ? `\n${predicted}` : ""}`;
  if (slot.figure.getAttribute("aria-label") !== title) slot.figure.setAttribute("aria-label", title);
}

function setLine(element, text, full) {
  setText(element, text);
  if (element.title !== full) element.title = full;
}
