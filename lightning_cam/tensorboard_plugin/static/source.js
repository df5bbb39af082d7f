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
 * @property {string} [page] the text of the report that this page is
 * @property {() => Promise<{ logdir: string, timelines: Entry[], notes: string[] }>} list also what is left out, in words
 * @property {(id: string, from: number, size: number) => Promise<ArrayBuffer>} read `size` bytes of a record from a place
 *   on, or all that there are
 */

const PIECE_BYTES = 4 * 2 ** 20; // asked for at a time: the server gives no more
const MOST_BYTES = 256 * 2 ** 20; // of one record of the file, or of a damaged place in it

/**
 * Read what was appended to a file, in pieces: only one of them is in memory. Return whether there was anything new.
 * @param {Source} source
 * @param {import("./timeline.js").Timeline} timeline
 * @param {number} bytes how long the file is
 */
export async function readAppended(source, timeline, bytes) {
  let news = false;
  let size = PIECE_BYTES;
  while (timeline.offset < bytes && !timeline.error && size <= MOST_BYTES) {
    const { offset } = timeline;
    const buffer = await source.read(timeline.id, offset, Math.min(size, bytes - offset));
    const left = Math.max(0, bytes - offset - buffer.byteLength);
    if (timeline.feed(buffer, left)) news = true;
    if (!left || !buffer.byteLength) break;
    size = timeline.offset > offset ? PIECE_BYTES : 4 * size; // a record may be longer than a piece
  }
  return news;
}

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
  /** @type {Source["read"]} */
  const read = async (id, from, size) => {
    const pieces = [];
    for (let at = from; at < from + size; ) {
      const query = new URLSearchParams({ id, from: String(at), limit: String(Math.min(PIECE_BYTES, from + size - at)) });
      const piece = await (await get(`record?${query}`)).arrayBuffer();
      if (!piece.byteLength) break; // the file has become shorter
      pieces.push(piece);
      at += piece.byteLength;
    }
    return pieces.length === 1 ? pieces[0] : new Blob(pieces).arrayBuffer();
  };
  return { live: true, list: async () => (await get("timelines")).json(), read };
}

/**
 * Take the records out of the report: one element per record, its bytes compressed and in base64.
 * @returns {Source}
 */
export function embeddedSource() {
  const page = `<!DOCTYPE html>\n${document.documentElement.outerHTML}`; // before anything is added to it
  const elements = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("script[data-timeline]")]);
  /** @type {Entry[]} */
  const timelines = elements.map((element) => JSON.parse(element.dataset.timeline ?? ""));
  return {
    live: false,
    page,
    list: async () => ({ logdir: location.pathname, timelines, notes: [] }),
    read: async (id, from, size) => {
      const base64 = elements[timelines.findIndex((timeline) => timeline.id === id)].textContent ?? "";
      const compressed = Uint8Array.from(atob(base64.trim()), (letter) => letter.charCodeAt(0));
      const bytes = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
      return (await new Response(bytes).arrayBuffer()).slice(from, from + size);
    },
  };
}
