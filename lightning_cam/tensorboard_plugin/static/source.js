// Where the records come from: TensorBoard's server, or the report that this page is part of.

/**
 * A record in a source's list, as the plugin and the report describe it.
 * @typedef {object} Entry
 * @property {string} id
 * @property {string} run
 * @property {string} file the file's name without its suffix
 * @property {string} uid tells the file from another one under the same path
 * @property {number} bytes
 * @property {boolean} [empty] whether it holds no look; never in a report
 * @property {number} modified seconds since 1970
 */

/**
 * @typedef {object} Source
 * @property {boolean} live whether records grow and new ones come
 * @property {() => Promise<{ logdir: string, timelines: Entry[] }>} list
 * @property {(id: string, from: number) => Promise<ArrayBuffer>} read a record's bytes from a place on
 */

/**
 * Ask the plugin; the page's base address is data/plugin/cam_timeline/, whatever --path_prefix is.
 * @returns {Source}
 */
export function serverSource() {
  const get = async (/** @type {string} */ path) => {
    const response = await fetch(path);
    if (!response.ok) throw new Error((await response.text()) || response.statusText);
    return response;
  };
  return {
    live: true,
    list: async () => (await get("timelines")).json(),
    read: async (id, from) => (await get(`record?${new URLSearchParams({ id, from: String(from) })}`)).arrayBuffer(),
  };
}

/**
 * Take the records out of the report: one element per record, its bytes compressed and in base64.
 * @returns {Source}
 */
export function embeddedSource() {
  const elements = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("script[data-timeline]")]);
  /** @type {Entry[]} */
  const timelines = elements.map((element) => JSON.parse(element.dataset.timeline ?? ""));
  return {
    live: false,
    list: async () => ({ logdir: location.pathname, timelines }),
    read: async (id, from) => {
      const base64 = elements[timelines.findIndex((timeline) => timeline.id === id)].textContent ?? "";
      const compressed = Uint8Array.from(atob(base64.trim()), (letter) => letter.charCodeAt(0));
      const bytes = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
      return (await new Response(bytes).arrayBuffer()).slice(from);
    },
  };
}
