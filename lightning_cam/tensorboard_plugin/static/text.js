// Numbers as text, and names as they can be read.

/**
 * A number as people read it: 1,234 · 0.0123 · 1.2e-7; a dash where there is none.
 * @param {number | null} value
 * @param {number} [digits] significant digits of what is not an integer
 */
export function formatNumber(value, digits = 3) {
  if (value === null || Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(digits - 1) : String(+value.toPrecision(digits));
}

/**
 * When a look was taken; one before the training has an epoch below 0.
 * @param {number} epoch
 */
export function formatEpoch(epoch) {
  return epoch < 0 ? "before training" : `epoch ${epoch}`;
}

/**
 * A probability in percent; certain and impossible are said only of exactly 1 and 0.
 * @param {number} probability
 */
export function formatPercent(probability) {
  if (probability >= 0.995 && probability < 1) return ">99 %";
  return probability > 0 && probability < 0.005 ? "<1 %" : `${Math.round(probability * 100)} %`;
}

const MOST_LETTERS = 300; // of a name: what is left of a longer one is more than anybody reads
// Controls, line breaks among them; marks that change the direction of what stands around them; halves of letters.
const UNREADABLE = /[\p{Cc}\u2028\u2029]|\p{Cs}/gu;
const DIRECTIONS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/**
 * A name as it can be shown anywhere: on one line, of a length that leaves room for others, without effect on the text
 * around it.
 * @param {string} name
 */
export function readable(name) {
  const text = name.length > 20 * MOST_LETTERS ? `${name.slice(0, 10 * MOST_LETTERS)}${name.slice(-10 * MOST_LETTERS)}` : name;
  const plain = text.replace(DIRECTIONS, "").replace(UNREADABLE, "\ufffd");
  const letters = plain.length > MOST_LETTERS ? [...plain] : [];
  if (letters.length <= MOST_LETTERS) return plain;
  return `${letters.slice(0, MOST_LETTERS / 2).join("")}…${letters.slice(-MOST_LETTERS / 2).join("")}`;
}
