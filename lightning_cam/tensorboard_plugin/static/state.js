// What is shown and how, and keeping it over a reload.

/**
 * @typedef {object} State
 * @property {import("./views.js").View} view
 * @property {string | null} timeline id of the record shown
 * @property {string[] | null} runs ids compared in the view "runs"; null: the newest four
 * @property {string | null} method
 * @property {string | null} otherRun id of B's record in the view "pair", whose A is what is shown; null: A's
 * @property {string | null} otherMethod B's method; null: A's
 * @property {number | null} otherStep B's step; null: where A is, in another run by its epoch
 * @property {boolean} swipe B lies over A, up to where `swipeAt` says
 * @property {number} swipeAt 0 to 1, the part of a tile's width at which B begins
 * @property {"step" | "epoch"} align by which runs are held together
 * @property {number | null} step
 * @property {number | null} reference step that the view "diff" compares with; null: the first
 * @property {number} image index of the filmstrip's image
 * @property {number | null} plane number of the slice, frame or instance shown; null: what leads by its evidence
 * @property {boolean} follow go to each new look as it comes
 * @property {number} speed looks a second while playing
 * @property {boolean} loop begin again at the end while playing
 * @property {number} opacity 0 to 1
 * @property {number} threshold share of the scale below which a map is not drawn
 * @property {string} sequential colormap of what speaks for the class
 * @property {string} diverging colormap of signed maps and of differences
 * @property {boolean} signed also show what speaks against the class
 * @property {boolean} squareRoot color by the square root: weak evidence shows
 * @property {boolean} smooth interpolate between cells
 * @property {"image" | "row" | "common"} scale full color is the largest value of the map, of its image at any step, of any image
 * @property {boolean} outlines of the object, where known
 * @property {boolean} fit tiles are as large as fits the window
 * @property {number} size CSS pixels of a tile's width; what fits, if `fit`
 * @property {number | null} label the class whose images are shown; null: all
 * @property {number | null} predicted the class that the images shown are predicted as; null: any
 * @property {"all" | "right" | "wrong" | "changed" | "missing" | "disagree" | "pinned"} show which images
 * @property {"index" | "drift" | "probability" | "evidence"} sort
 * @property {number | null} sortStep the step whose values sort; null: the one shown
 * @property {boolean} charts
 * @property {boolean} allCharts more than one row of them
 */

// The values of what is chosen from a few, with their texts.
/** @type {Record<State["scale"], string>} */
export const SCALES = { image: "per image", row: "over time", common: "common" };
/** @type {Record<State["align"], string>} */
export const ALIGNED = { step: "step", epoch: "epoch" };
/** @type {Record<State["sort"], string>} */
export const SORTS = { index: "probe order", drift: "drift", probability: "probability", evidence: "evidence" };
/** @type {Record<State["show"], string>} */
export const SHOWN = { all: "all", right: "predicted right", wrong: "predicted wrong", changed: "changed most", missing: "without evidence", disagree: "methods disagree", pinned: "pinned" };

/** @type {Readonly<State>} */
export const DEFAULTS = {
  view: "overview",
  timeline: null,
  runs: null,
  method: null,
  otherRun: null,
  otherMethod: null,
  otherStep: null,
  swipe: false,
  swipeAt: 0.5,
  align: "step",
  step: null,
  reference: null,
  image: 0,
  plane: null,
  follow: true,
  speed: 8,
  loop: false,
  opacity: 0.75,
  threshold: 0,
  sequential: "inferno",
  diverging: "coolwarm",
  signed: false,
  squareRoot: false,
  smooth: true,
  scale: "image",
  outlines: true,
  fit: true,
  size: 176,
  label: null,
  predicted: null,
  show: "all",
  sort: "index",
  sortStep: null,
  charts: true,
  allCharts: false,
};

/**
 * Read the state of an earlier visit; anything unknown or of another type is left at its default.
 * @param {string} key
 * @returns {State}
 */
export function restoreState(key) {
  /** @type {Record<string, any>} */
  const state = { ...DEFAULTS };
  try {
    const stored = JSON.parse(localStorage.getItem(key) ?? "{}") ?? {};
    for (const [name, value] of Object.entries(DEFAULTS)) {
      if (name in stored && (value === null || typeof stored[name] === typeof value)) state[name] = stored[name];
    }
  } catch {
    // no storage (a private window, a sandbox): the page just does not remember
  }
  return /** @type {State} */ (state);
}

/**
 * Store the state for the next visit.
 * @param {string} key
 * @param {State} state
 */
export function saveState(key, state) {
  try {
    localStorage.setItem(key, JSON.stringify(state));
  } catch {
    // as above
  }
}
