// Where the records come from: TensorBoard's server, or the report that this page is part of.

/** Ask the plugin; the page's base address is data/plugin/cam_timeline/, whatever --path_prefix is. */
export function serverSource() {
  async function get(path) {
    const response = await fetch(path);
    if (!response.ok) throw new Error((await response.text()) || response.statusText);
    return response;
  }
  return {
    live: true,
    list: async () => (await get("timelines")).json(),
    read: async (id, from) => (await get(`record?${new URLSearchParams({ id, from })}`)).arrayBuffer(),
  };
}

/** Take the records out of the report: one element per record, its bytes compressed and in base64. */
export function embeddedSource() {
  const elements = [...document.querySelectorAll("script[data-timeline]")];
  const timelines = elements.map((element) => JSON.parse(element.dataset.timeline));
  return {
    live: false,
    list: async () => ({ logdir: location.pathname, timelines }),
    read: async (id, from) => {
      const text = elements[timelines.findIndex((timeline) => timeline.id === id)].textContent;
      const packed = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
      const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      return (await new Response(plain).arrayBuffer()).slice(from);
    },
  };
}
