// The caption of a tile: its lines, and what else tells of the prediction.

import { setText } from "./dom.js";
import { formatEpoch, formatNumber, formatPercent } from "./text.js";

/** @typedef {import("./tiles.js").Slot} Slot */
/** @typedef {import("./views.js").Tile} Tile */

/**
 * Class names as they fit into each line, and of several texts the first that fits into the first one.
 * @typedef {{ first: (name: string) => string, second: (name: string) => string, fitting: (texts: string[]) => string }} ShortNames
 */

/**
 * Write a caption's two lines, of images with planes three, with short names, and its title, with whole ones; and what else tells of the prediction.
 * @param {Slot} slot
 * @param {Tile} tile
 * @param {ShortNames} shortNames
 * @param {boolean} narrow
 * @param {string} planes what is said of the slice, frame or instances that it shows
 */
export function writeCaption(slot, tile, shortNames, narrow, planes) {
  const { timeline, lookIndex, imageIndex } = tile;
  const { predicted, probability, correct } = timeline.prediction(lookIndex, imageIndex);
  const { step, epoch } = timeline.looks[lookIndex];
  const name = timeline.nameOf(imageIndex);
  if (tile.caption === "step") {
    const placeText = `step ${formatNumber(step)} · ${formatEpoch(epoch)}`;
    const short = `${formatNumber(step)} · ${formatEpoch(epoch)}`;
    setLine(slot.first, shortNames.fitting([placeText, short, formatEpoch(epoch)]), placeText);
  }
  else {
    const overlap = tile.caption === "label" ? "" : timeline.overlapOf(lookIndex, imageIndex);
    const full = overlap ? `${name} · ${overlap}` : name;
    setLine(slot.first, overlap ? shortNames.fitting([full, overlap]) : shortNames.first(name), full);
  }

  const plain = tile.caption === "label";
  let prediction = timeline.valueOf(lookIndex, imageIndex);
  if (predicted !== null && probability !== null) {
    const mark = correct === null ? "" : correct ? "✓ " : "✗ ";
    const predictedName = timeline.className(predicted);
    const percent = formatPercent(probability);
    prediction = `${mark}${predictedName} · ${percent}`;
    if (!plain) {
      const shortName = shortNames.second(predictedName);
      setLine(slot.second, `${mark}${shortName}${narrow ? "" : ` · ${percent}`}`, prediction);
    }
  }
  if (plain) setLine(slot.second, `image ${imageIndex + 1}`, "");
  else if (predicted === null) setLine(slot.second, prediction, prediction);

  slot.third.hidden = !timeline.probe.planes;
  setLine(slot.third, planes, planes);

  slot.figure.dataset.verdict = plain || correct === null ? "none" : correct ? "right" : "wrong";
  slot.figure.classList.toggle("current", Boolean(tile.current));
  slot.figure.setAttribute("aria-current", String(Boolean(tile.current)));
  slot.bar.style.width = plain || probability === null ? "0" : `${100 * probability}%`;
  const title = [name, planes, plain ? "" : prediction].filter(Boolean).join("\n");
  if (slot.figure.getAttribute("aria-label") !== title) slot.figure.setAttribute("aria-label", title);
}

/**
 * @param {HTMLElement} element
 * @param {string} text
 * @param {string} full
 */
function setLine(element, text, full) {
  setText(element, text);
  if (element.title !== full) element.title = full;
}
