// Names of runs and of classes, as short as the page needs them.

/**
 * Compare for natural sort order: version_2 before version_10, lr0.02 before lr0.1.
 * @param {string} a
 * @param {string} b
 * @returns {number} negative where `a` comes first
 */
export function compareNatural(a, b) {
  const [left, right] = [a, b].map((name) => name.split(/(\d+(?:\.\d+)?)/)); // every second part is a number
  const n = left.findIndex((part, at) => part !== right[at]);
  const difference = n % 2 ? Number(left[n]) - Number(right[n]) : 0;
  return difference || (a < b ? -1 : a > b ? 1 : 0);
}

/**
 * The folders that hold all of the runs, with a slash at the end: they tell no run from another.
 * @param {string[]} runs paths of folders
 */
export function commonFolder(runs) {
  const above = (/** @type {string} */ folder) => folder.slice(0, folder.lastIndexOf("/", folder.length - 2) + 1);
  let folder = above(runs[0] ?? "");
  while (!runs.every((run) => run.startsWith(folder))) folder = above(folder);
  return folder;
}

/**
 * Each name as it fits into `width`. A name is cut at its end, in its middle if another one begins alike, and on both
 * sides of what tells them apart if that one ends alike as well.
 * @param {string[]} names
 * @param {number} width
 * @param {(text: string) => number} measure how wide a text is, see `textRuler` in dom.js
 * @returns {Map<string, string>} the short name of each name
 */
export function shortenNames(names, width, measure) {
  const shorten = nameShortener(names, width, measure);
  return new Map(names.map((name) => [name, shorten(name)]));
}

/**
 * The same, one name after the other as they are asked for: of thousands of classes a few are in sight.
 * @param {string[]} names
 * @param {number} width
 * @param {(text: string) => number} measure
 * @returns {(name: string) => string}
 */
export function nameShortener(names, width, measure) {
  const sorted = [...new Set(names)].sort();
  const places = new Map(sorted.map((name, n) => [name, n]));
  /** @type {Map<string, string>} */
  const known = new Map();
  const shorten = (/** @type {string} */ name) => {
    const text = longestFit(name, width, measure, cutEnd);
    const start = text.slice(0, text.length / 2);
    const place = places.get(name) ?? NaN;
    const neighbors = [sorted[place - 1], sorted[place + 1]]; // those that begin alike stand in a row
    const alike = text === name ? [] : neighbors.filter((other) => other?.startsWith(start));
    if (!alike.length) return text;
    const middle = longestFit(name, width, measure, cutMiddle);
    const [head, tail] = middle.split("…");
    const same = alike.filter((other) => other.startsWith(head) && other.endsWith(tail));
    if (!same.length) return middle;
    const from = Math.min(...same.map((other) => letterOfDifference(name, other)));
    return longestFit(name, width, measure, (letters, count) => cutAround(letters, count, from));
  };
  return (name) => {
    const short = known.get(name) ?? shorten(name);
    known.set(name, short);
    return short;
  };
}

/**
 * The name, or as many of its letters as fit.
 * @param {string} name
 * @param {number} width
 * @param {(text: string) => number} measure
 * @param {(letters: string[], count: number) => string} cut keeps `count` of the letters
 */
function longestFit(name, width, measure, cut) {
  if (measure(name) <= width) return name;
  const letters = [...name];
  let count = 1;
  for (let tooMany = letters.length; count + 1 < tooMany; ) {
    const middle = (count + tooMany) >> 1;
    if (measure(cut(letters, middle)) <= width) count = middle;
    else tooMany = middle;
  }
  return cut(letters, count);
}

/** @type {(letters: string[], count: number) => string} */
const cutEnd = (letters, count) => `${letters.slice(0, count).join("").trimEnd()}…`;

/**
 * What begins alike differs at its end: that gets two thirds of what is kept.
 * @type {(letters: string[], count: number) => string}
 */
function cutMiddle(letters, count) {
  const head = Math.ceil(count / 3);
  const tail = letters.slice(letters.length - count + head);
  return `${letters.slice(0, head).join("").trimEnd()}…${tail.join("").trimStart()}`;
}

/**
 * The place of the first letter in which two names differ.
 * @param {string} a
 * @param {string} b
 */
function letterOfDifference(a, b) {
  const [left, right] = [[...a], [...b]];
  const n = left.findIndex((letter, at) => letter !== right[at]);
  return n < 0 ? left.length : n;
}

/**
 * What begins and ends alike differs between: that is kept, with some letters before it.
 * @param {string[]} letters
 * @param {number} count
 * @param {number} from where it differs
 */
function cutAround(letters, count, from) {
  const start = Math.max(0, Math.min(from - Math.floor(count / 3), letters.length - count));
  const end = start + count;
  return `${start ? "…" : ""}${letters.slice(start, end).join("").trim()}${end < letters.length ? "…" : ""}`;
}
