// One sentence for each metric: what it is, which way is good, and what chance is.

const LESS_IS_BETTER = /loss|err|mae|mse|nll|perplexity|distance/i;
const MORE_IS_BETTER = /acc|f1|auroc|auc|iou|map|precision|recall|dice|r2|score/i;

/** @type {Record<string, string>} by the name that a chart has */
const WORDS = {
  "probe accuracy": "Share of the probe images predicted right: higher is better, chance is 1 over the number of classes.",
  "label probability": "Mean probability of the right class of the probe images: higher is better, chance is 1 over the number of classes.",
  "drift since the last look": "How much the maps changed, 1 minus their cosine: 0 is no change, about 1 is two maps that have nothing in common; it falls as a training settles.",
  target_probability: "Mean probability of the class that is explained: higher is surer, chance is 1 over the number of classes.",
  entropy: "How evenly the evidence is spread: 0 is one cell, 1 everywhere alike, as of a map of chance; neither is better by itself.",
  gini: "How sparse the maps are: 0 is even, 1 a single cell; neither is better by itself.",
  similarity_to_previous: "How alike the maps are to those of the look before: 1 is the same, 0 is what maps of chance have; it rises as a training settles.",
  similarity_to_first: "How alike the maps are to those of the first look: 1 is the same, 0 is what maps of chance have; it falls as a model learns.",
  conservation: "What a map adds up to, as a part of what the score owes to the image: 1 is all of it, far from 1 the map does not add up.",
  share_inside: "Share of the evidence inside the box or mask of the object: higher is better, chance is the object's part of the area.",
  pointing_game: "How often the highest cell lies on the object: higher is better, chance is the object's part of the area.",
  deletion_auc: "Probability while the cells with most evidence are blurred first: lower is better; the random method is chance.",
  insertion_auc: "Probability while the cells with most evidence come back first: higher is better; the random method is chance.",
  gain_over_chance: "By how much the probability falls sooner where the map's cells are blurred first than where random ones are: higher is better, 0 is chance.",
  class_similarity: "How alike the maps of two classes are for one image: lower is better, 1 is a map that shows the image and not the class.",
  average_drop: "Part of the probability lost where only what the map lights is shown: lower is better; the random method is chance.",
  "model/agreement": "Share of the leading method's evidence that lies at the same places by the last block: 1 is all; low is evidence that the last block no longer shows.",
  "attention entropy": "How evenly a block's attention is spread: 0 is on one token, 1 on all alike, as by chance; near 0 attention has collapsed.",
  "attention distance": "How far attention reaches in a block, as a part of the image: neither is better by itself; it is that of chance before training.",
  "attention largest share": "Share of the attention that goes to the token that gets most: above 0.5 one token takes over; chance is 1 over the number of tokens.",
  "outlier token norm": "Norm of the largest token over that of the median one: above 5, tokens stand out that hold no place of the image; 1 is all alike.",
  "cohort/accuracy": "Share of the cohort's images predicted right: higher is better, chance is 1 over the number of classes.",
  "cohort/border_share": "Share of the cohort's evidence in the outer seventh of the image on each side: chance is 0.49, its part of the area.",
  "cohort/center_share": "Share of the cohort's evidence in the central quarter of the image: chance is 0.25, its part of the area.",
  "cohort/spread": "How evenly the cohort's evidence is spread: 0 is one cell, 1 everywhere alike, as of a map of chance.",
  "cohort/share_inside": "Share of the cohort's evidence on the object: higher is better, chance is cohort/area_inside.",
  "cohort/area_inside": "The object's part of the area in the cohort: what chance has of the evidence there.",
  "cohort/agreement": "Share of the leading method's evidence in the cohort that lies at the same places by the other default: 1 is all.",
  "cohort/drift": "How much the mean maps of the classes moved since the look before: 0 is not at all; below 0.05 they have settled.",
  "cohort/without_evidence": "Share of the cohort's images whose map says nothing: lower is better, 0 is all have evidence.",
  "cohort/images": "How many validation images the cohort has.",
};

/**
 * Whether of a model's own metric less (-1) or more (1) is better, from its name; 0 where that is not known.
 * @param {string} tag
 */
export function betterSign(tag) {
  return LESS_IS_BETTER.test(tag) ? -1 : MORE_IS_BETTER.test(tag) ? 1 : 0;
}

/**
 * The sentence of a chart.
 * @param {string} title
 */
export function wordsOf(title) {
  const name = title.replace(/, last block$/, "");
  if (Object.hasOwn(WORDS, name)) return WORDS[name];
  const sign = betterSign(title);
  return `Logged by your model${sign ? `: ${sign > 0 ? "higher" : "lower"} is better, by its name` : ""}.`;
}
