// Names of runs, as the page lists them.

/** Sort as people count: version_2 before version_10. */
export const inOrder = new Intl.Collator("en", { numeric: true }).compare;

/** The folders that hold all of the runs, with a slash at the end: they tell no run from another. */
export function commonFolder(runs) {
  const above = (folder) => folder.slice(0, folder.lastIndexOf("/", folder.length - 2) + 1);
  let folder = above(runs[0] ?? "");
  while (!runs.every((run) => run.startsWith(folder))) folder = above(folder);
  return folder;
}
