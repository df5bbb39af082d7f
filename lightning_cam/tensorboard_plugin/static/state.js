// What is shown and how, and keeping it over a reload.

export const DEFAULTS = {
  view: "grid",
  timeline: null, // id of the record shown
  runs: null, // ids compared in the view "runs"; null: the newest four
  method: null,
  step: null,
  reference: null, // step that the view "diff" compares with; null: the first
  image: 0, // the one of the filmstrip
  follow: true, // go to each new look as it comes
  speed: 8, // looks a second while playing
  opacity: 0.75,
  threshold: 0,
  sequential: "inferno",
  diverging: "coolwarm",
  signed: false, // also show what speaks against the class
  root: false, // color by the square root: weak evidence shows
  smooth: true,
  scale: "image", // "image", "row" over time, "common"
  outlines: true, // of the object, where known
  size: 176, // CSS pixels of a tile's width
  label: null, // class filter
  show: "all", // "all", "right", "wrong", "changed"
  sort: "index", // "index", "drift", "probability", "evidence"
  charts: true,
};

/** Read the state of an earlier visit; anything unknown or of another type is left at its default. */
export function restore(key) {
  const state = { ...DEFAULTS };
  try {
    const kept = JSON.parse(localStorage.getItem(key)) ?? {};
    for (const name of Object.keys(DEFAULTS)) {
      const expected = DEFAULTS[name];
      if (name in kept && (expected === null || typeof kept[name] === typeof expected)) state[name] = kept[name];
    }
  } catch {
    // no storage (a private window, a sandbox): the page just does not remember
  }
  return state;
}

export function keep(key, state) {
  try {
    localStorage.setItem(key, JSON.stringify(state));
  } catch {
    // as above
  }
}
