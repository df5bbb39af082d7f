// Small helpers to build the page. Text from the log only ever becomes text nodes: nothing of it is parsed as HTML.

/**
 * Attributes, and listeners under on*. An attribute that is true is set without a value, one that is false, null or
 * undefined is left out.
 * @typedef {{
 *   onclick?: (event: MouseEvent) => void,
 *   onkeydown?: (event: KeyboardEvent) => void,
 *   onpointermove?: (event: PointerEvent) => void,
 *   onpointerenter?: (event: PointerEvent) => void,
 *   onpointerleave?: (event: PointerEvent) => void,
 *   oninput?: (event: Event) => void,
 *   onchange?: (event: Event) => void,
 *   [attribute: string]: any,
 * }} Props
 */

/**
 * Make an element: html("div", { class: "row", onclick: listener }, "text", child).
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Props} [props]
 * @param {(Node | string | null | undefined)[]} children null and undefined are left out
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function html(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  setProps(element, props);
  for (const child of children) if (child !== null && child !== undefined) element.append(child);
  return element;
}

/**
 * The same for SVG.
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Props} [props]
 * @param {Node[]} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export function svg(tag, props = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setProps(element, props);
  element.append(...children);
  return element;
}

/**
 * @param {Element} element
 * @param {Props} props
 */
function setProps(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
}

/**
 * Set an element's text only if it changed, which spares the browser a layout.
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * The 2D context of a canvas. Browsers give none only for a canvas that is used for something else.
 * @param {HTMLCanvasElement} canvas
 * @param {CanvasRenderingContext2DSettings} [settings]
 */
export function context2d(canvas, settings) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", settings));
}

/** @type {CanvasRenderingContext2D | undefined} */
let rulerContext;
let rulerFont = "";

/**
 * Measures texts in the font that an element has now.
 * @param {Element} element
 * @returns {(text: string) => number} the width of a text in CSS pixels
 */
export function textRuler(element) {
  const context = (rulerContext ??= context2d(document.createElement("canvas")));
  const { fontWeight, fontSize, fontFamily } = getComputedStyle(element);
  const font = `${fontWeight} ${fontSize} ${fontFamily}`;
  return (text) => {
    if (rulerFont !== font) context.font = rulerFont = font; // another ruler may have measured
    return context.measureText(text).width;
  };
}
