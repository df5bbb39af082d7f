// One tile, large: the image beside its map, what the model said, and how that came about.

import { SERIES } from "./colors.js";
import { h, number, percent, setText, svg } from "./dom.js";
import { drawTile, hover } from "./tiles.js";
import { drawImage } from "./draw.js";

const SIDE = 448;

export class Enlarged {
  constructor(app) {
    this.app = app;
    this.tile = null;
    this.map = h("canvas", {
      onpointermove: (event) => hover(this.tip, app.state, this.map, this.tile, this.shown, event),
      onpointerleave: () => (this.tip.hidden = true),
    });
    this.plain = h("canvas");
    this.title = h("h2");
    this.place = h("p", { class: "hint" });
    this.said = h("div", { class: "said" });
    this.story = h("div", { class: "story" });
    this.facts = h("p", { class: "hint" });
    this.tip = h("div", { class: "tip", hidden: true });
    this.element = h(
      "dialog",
      { class: "enlarged", onclick: (event) => event.target === this.element && this.element.close() },
      h("header", {}, this.title, h("button", { title: "close (Escape)", onclick: () => this.element.close() }, "✕")),
      this.place,
      h("div", { class: "pair" }, this.plain, this.map),
      h("div", { class: "details" }, this.said, this.story),
      this.facts,
      this.tip,
    );
    this.element.addEventListener("close", () => (this.tile = null));
  }

  /** Open for a tile; it then goes with the slider. */
  open(tile) {
    const { timeline, i, method, reference } = tile;
    this.tile = { timeline, i, method: method ?? this.app.state.method, reference, t: tile.t };
    this.element.showModal();
    this.app.change({ step: timeline.looks[tile.t].step, follow: this.app.state.follow && tile.t === timeline.looks.length - 1 });
  }

  show(timelines, style) {
    if (!this.tile) return;
    const { timeline, i, method } = this.tile;
    this.tile.t = timeline.lookAt(this.app.state.step);
    const { t } = this.tile;
    const look = timeline.looks[t];
    const ratio = Math.min(1, timeline.aspect);
    for (const canvas of [this.plain, this.map]) {
      canvas.width = 2 * SIDE * ratio;
      canvas.height = (2 * SIDE * ratio) / timeline.aspect;
    }
    drawImage(this.plain, timeline.images[i]);
    this.shown = drawTile(this.map, this.app.state, timelines, this.tile, style);
    const said = timeline.prediction(t, i);
    setText(this.title, said.label < 0 ? `image ${i + 1}` : timeline.className(said.label));
    setText(this.place, `${timeline.label} · ${method} · step ${number(look.step)} · epoch ${look.epoch}`);
    this.said.replaceChildren(...said.top.map(({ index, share }) => topRow(timeline.className(index), share, index === said.label)));
    this.story.replaceChildren(...story(timeline, i, t));
    const explained = look.explained?.[i] ?? said.best;
    const map = look.maps[method];
    const largest = map ? number(map.scales[2 * i]) : "–";
    const facts = [explained === null ? "" : `explains: ${timeline.className(explained)}`, `largest value ${largest}`, `drift ${number(timeline.drift(method)[i])}`];
    setText(this.facts, facts.filter(Boolean).join(" · "));
  }
}

function topRow(name, share, right) {
  const bar = h("div", { class: "fill", style: `width: ${100 * share}%` });
  return h("div", { class: `top ${right ? "right" : ""}` }, h("span", { class: "name" }, name), h("div", { class: "track" }, bar), h("span", {}, percent(share)));
}

/** The label's probability over the looks, with a cursor. */
function story(timeline, i, t) {
  const shares = timeline.looks.map((_, at) => timeline.prediction(at, i).own);
  if (shares.every((share) => share === null)) return [];
  const width = 260;
  const height = 70;
  const across = (at) => (shares.length > 1 ? (at / (shares.length - 1)) * width : width / 2);
  const points = shares.map((share, at) => `${across(at).toFixed(1)},${(height - 4 - (height - 8) * (share ?? 0)).toFixed(1)}`);
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" },
    svg("polyline", { class: "line", points: points.join(" "), stroke: SERIES[0] }),
    svg("line", { class: "now", x1: across(t), x2: across(t), y1: 0, y2: height }),
  );
  return [h("div", { class: "hint" }, "probability of the label over the looks"), picture];
}
