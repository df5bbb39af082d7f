// Names of runs and of classes, as short as the page needs them.

/** Sort as people count: version_2 before version_10, lr0.02 before lr0.1. */
export function inOrder(a, b) {
  const [own, other] = [a, b].map((name) => name.split(/(\d+(?:\.\d+)?)/)); // every second part is a number
  const n = own.findIndex((part, at) => part !== other[at]);
  const difference = n % 2 ? own[n] - other[n] : 0;
  return difference || (a < b ? -1 : a > b ? 1 : 0);
}

/** The folders that hold all of the runs, with a slash at the end: they tell no run from another. */
export function commonFolder(runs) {
  const above = (folder) => folder.slice(0, folder.lastIndexOf("/", folder.length - 2) + 1);
  let folder = above(runs[0] ?? "");
  while (!runs.every((run) => run.startsWith(folder))) folder = above(folder);
  return folder;
}

const ruler = document.createElement("canvas").getContext("2d");

/**
 * Each name as it fits into `width` pixels of an element: {name: text}. A name is cut at its end, or in its middle if
 * another one begins alike.
 */
export function fitted(names, width, element) {
  const { fontWeight, fontSize, fontFamily } = getComputedStyle(element);
  ruler.font = `${fontWeight} ${fontSize} ${fontFamily}`;
  const short = (name) => {
    const text = longest(name, width, cutEnd);
    const start = text.slice(0, text.length / 2);
    const alike = text !== name && names.some((other) => other !== name && other.startsWith(start));
    return alike ? longest(name, width, cutMiddle) : text;
  };
  return new Map(names.map((name) => [name, short(name)]));
}

/** The name, or as many of its letters as fit; cut(letters, count) keeps `count` of them. */
function longest(name, width, cut) {
  const fits = (text) => ruler.measureText(text).width <= width;
  if (fits(name)) return name;
  const letters = [...name];
  let count = letters.length - 1;
  while (count > 1 && !fits(cut(letters, count))) count--;
  return cut(letters, count);
}

const cutEnd = (letters, count) => `${letters.slice(0, count).join("").trimEnd()}…`;

/** What begins alike differs at its end: two thirds of what is kept. */
function cutMiddle(letters, count) {
  const head = Math.ceil(count / 3);
  const tail = letters.slice(letters.length - count + head);
  return `${letters.slice(0, head).join("").trimEnd()}…${tail.join("").trimStart()}`;
}
