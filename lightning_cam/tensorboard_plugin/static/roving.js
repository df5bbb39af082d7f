// Many elements that are one stop of the Tab key: the arrows go from one to the next.

/**
 * @param {HTMLElement} container
 * @param {string} selector of the elements, which are focusable
 * @param {(element: HTMLElement) => void} [onMove] is called with the element that an arrow has led to
 * @returns {(chosen?: Element | null) => void} is to be called when elements came or went, or another one is chosen: it is
 *   the stop then, without one the first where the stop is gone
 */
export function rove(container, selector, onMove) {
  const all = () => /** @type {HTMLElement[]} */ ([...container.querySelectorAll(selector)]);
  const isThere = (/** @type {HTMLElement | undefined} */ element) => Boolean(element?.isConnected && !element.hidden && !element.classList.contains("empty"));
  /** @type {HTMLElement | undefined} */
  let stop;
  /** @param {HTMLElement | undefined} element */
  const make = (element) => {
    if (element === stop) return;
    if (stop) stop.tabIndex = -1;
    stop = element;
    if (stop) stop.tabIndex = 0;
  };
  container.addEventListener("focusin", ({ target }) => {
    const element = target instanceof Element ? /** @type {HTMLElement | null} */ (target.closest(selector)) : null;
    if (element) make(element);
  });
  container.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const here = event.target instanceof Element ? /** @type {HTMLElement | null} */ (event.target.closest(selector)) : null;
    const next = here && neighbor(here, all().filter(isThere), event.key);
    if (next === null) return;
    event.preventDefault(); // neither the page nor the player moves
    if (!next) return;
    next.focus();
    onMove?.(next);
  });
  return (chosen) => {
    if (chosen instanceof HTMLElement) make(chosen);
    else if (!isThere(stop)) make(all().find(isThere));
  };
}

/**
 * The element that a key leads to; undefined where there is none, null where the key leads nowhere.
 * @param {HTMLElement} here
 * @param {HTMLElement[]} elements in their order
 * @param {string} key
 * @returns {HTMLElement | null | undefined}
 */
function neighbor(here, elements, key) {
  const at = elements.indexOf(here);
  if (key === "Home") return elements[0];
  if (key === "End") return elements[elements.length - 1];
  if (key === "ArrowLeft") return elements[at - 1];
  if (key === "ArrowRight") return elements[at + 1];
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const { left, top } = here.getBoundingClientRect();
  const rows = elements.map((element) => ({ element, box: element.getBoundingClientRect() }));
  const beyond = rows.filter(({ box }) => (key === "ArrowUp" ? box.top < top - 1 : box.top > top + 1));
  const row = key === "ArrowUp" ? Math.max(...beyond.map(({ box }) => box.top)) : Math.min(...beyond.map(({ box }) => box.top));
  const near = beyond.filter(({ box }) => Math.abs(box.top - row) < 2).sort((a, b) => Math.abs(a.box.left - left) - Math.abs(b.box.left - left));
  return near[0]?.element;
}
