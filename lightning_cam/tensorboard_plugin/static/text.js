// Numbers as text.

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
 * A probability in percent; certain and impossible are said only of exactly 1 and 0.
 * @param {number} probability
 */
export function formatPercent(probability) {
  if (probability >= 0.995 && probability < 1) return ">99 %";
  return probability > 0 && probability < 0.005 ? "<1 %" : `${Math.round(probability * 100)} %`;
}
