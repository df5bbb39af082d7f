// Which tiles each view shows, and in which order.

export const VIEWS = {
  grid: "Grid",
  film: "Filmstrip",
  diff: "Difference",
  runs: "Compare runs",
  methods: "Compare methods",
};

const FILM_LIMIT = 60; // looks in a filmstrip; more are thinned out evenly

/** The records that the view shows together. */
export function shownTimelines(app) {
  const { state } = app;
  const ids = state.view === "runs" ? comparedRuns(app) : [state.timeline];
  return ids.map((id) => app.timelines.get(id)).filter((timeline) => timeline?.probe && timeline.looks.length);
}

/** Ids of the runs to compare, as they are listed: of those with a look the ones chosen, or the newest four. */
export function comparedRuns({ state, listed }) {
  const comparable = listed.filter(({ empty }) => !empty);
  const newest = [...comparable].sort((a, b) => b.modified - a.modified).slice(0, 4).map(({ id }) => id);
  const chosen = state.runs ?? newest;
  return comparable.map(({ id }) => id).filter((id) => chosen.includes(id));
}

/** All steps at which one of the shown records has a look. */
export function allSteps(timelines) {
  return [...new Set(timelines.flatMap(({ looks }) => looks.map(({ step }) => step)))].sort((a, b) => a - b);
}

/** Images of a record that pass the filters, in the chosen order. */
export function chosenImages(state, timeline, method, step) {
  const t = timeline.lookAt(step);
  const drift = timeline.drift(method);
  let images = Array.from({ length: timeline.count }, (_, i) => i);
  if (state.label !== null) images = images.filter((i) => timeline.probe.labels[i] === state.label);
  if (state.show === "right" || state.show === "wrong") {
    images = images.filter((i) => timeline.prediction(t, i).right === (state.show === "right"));
  }
  if (state.show === "changed") {
    const limit = Math.ceil(timeline.count / 4);
    const most = [...drift.keys()].sort((a, b) => drift[b] - drift[a]).slice(0, limit);
    images = images.filter((i) => most.includes(i));
  }
  const keys = {
    drift: (i) => -drift[i],
    probability: (i) => timeline.prediction(t, i).own ?? timeline.prediction(t, i).share ?? 0,
    evidence: (i) => -(timeline.looks[t].maps[method]?.scales[2 * i] ?? 0),
  };
  const key = keys[state.sort];
  return key ? images.map((i) => [key(i), i]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, i]) => i) : images;
}

/**
 * The tiles of the current view: {timelines, headings, tiles, note}.
 * headings: {title, fullName, step} of each column, or null where tiles flow. tiles: {timeline, t, i, method, reference, caption}; a tile
 * with method null shows the plain image, null is an empty place.
 */
export function arrange(app) {
  const { state } = app;
  const timelines = shownTimelines(app);
  if (!timelines.length) return { timelines, headings: null, tiles: [], note: "" };
  const first = timelines[0];
  const tile = (timeline, t, i, method, more = {}) => ({ timeline, t, i, method, reference: null, caption: "class", ...more });
  const images = chosenImages(state, first, state.method, state.step);
  const note = images.length || state.view === "film" ? "" : "No image passes the filters.";
  const now = first.lookAt(state.step);
  const plain = (i) => tile(first, now, i, null, { caption: "label" });

  if (state.view === "film") {
    const i = Math.min(state.image, first.count - 1);
    const looks = thinned(first.looks.length, now);
    const all = first.looks.length;
    return {
      timelines,
      headings: null,
      tiles: looks.map((t) => tile(first, t, i, state.method, { caption: "step", current: t === now })),
      note: looks.length < all ? `${looks.length} of ${all} looks, evenly spread` : "",
    };
  }
  if (state.view === "runs") {
    const row = (i) => timelines.map((timeline) => {
      const same = timeline.probe.hashes.indexOf(first.probe.hashes[i]);
      return same < 0 ? null : tile(timeline, timeline.lookAt(state.step), same, state.method);
    });
    const headings = timelines.map((timeline) => ({ title: timeline.label, fullName: timeline.fullName, step: timeline.looks[timeline.lookAt(state.step)].step }));
    return { timelines, headings: [{ title: "image" }, ...headings], tiles: images.flatMap((i) => [plain(i), ...row(i)]), note };
  }
  if (state.view === "methods") {
    const headings = [{ title: "image" }, ...first.methods.map((title) => ({ title }))];
    const tiles = images.flatMap((i) => [plain(i), ...first.methods.map((method) => tile(first, now, i, method))]);
    return { timelines, headings, tiles, note };
  }
  const reference = state.view === "diff" ? first.lookAt(state.reference ?? -Infinity) : null;
  return { timelines, headings: null, tiles: images.map((i) => tile(first, now, i, state.method, { reference })), note };
}

/** Indices of looks for a filmstrip: all, or an even spread that holds the first, the last and the current one. */
function thinned(count, current) {
  if (count <= FILM_LIMIT) return Array.from({ length: count }, (_, t) => t);
  const spread = Array.from({ length: FILM_LIMIT }, (_, k) => Math.round((k * (count - 1)) / (FILM_LIMIT - 1)));
  return [...new Set([...spread, current])].sort((a, b) => a - b);
}
