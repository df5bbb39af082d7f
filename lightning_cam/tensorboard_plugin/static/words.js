// One sentence for each metric: what it is, which way is good, and what chance is.

const LESS_IS_BETTER = /loss|err|mae|mse|nll|perplexity|distance/i;
const MORE_IS_BETTER = /acc|f1|auroc|auc|iou|map|precision|recall|dice|r2|score/i;

/** @type {Record<string, string>} by the name that a chart has */
const WORDS = {
  "probe accuracy": "Share of the probe images predicted correctly: higher is better, chance is 1 over the number of classes.",
  "label probability": "Mean probability of the correct class on the probe images: higher is better, chance is 1 over the number of classes.",
  "drift since the last look": "How much the maps changed, 1 minus their cosine: 0 is no change, about 1 is two unrelated maps; it falls as training settles.",
  target_probability: "Mean probability of the explained class: higher is more confident, chance is 1 over the number of classes.",
  entropy: "How evenly the evidence is spread: 0 is one cell, 1 is uniform, as in a random map; neither is better by itself.",
  gini: "How sparse the maps are: 0 is uniform, 1 is a single cell; neither is better by itself.",
  similarity_to_previous: "How similar the maps are to those of the previous look: 1 is identical, 0 is what random maps have; it rises as training settles.",
  similarity_to_first: "How similar the maps are to those of the first look: 1 is identical, 0 is what random maps have; it falls as a model learns.",
  conservation: "Sum of a map, as a fraction of the part of the score that comes from the image: 1 is all of it; far from 1, relevance was lost or added.",
  share_inside: "Share of the evidence inside the box or mask of the object: higher is better, chance is the object's share of the area.",
  pointing_game: "How often the highest cell lies on the object: higher is better, chance is the object's share of the area.",
  deletion_auc: "Mean probability while cells are blurred, those with most evidence first: lower is better; the random method is chance.",
  insertion_auc: "Mean probability while cells are restored, those with most evidence first: higher is better; the random method is chance.",
  gain_over_chance: "How much sooner the probability falls when the map's cells are blurred first than when random ones are: higher is better, 0 is chance.",
  class_similarity: "How similar the maps of two classes are for one image: lower is better, 1 is a map that depends on the image and not on the class.",
  average_drop: "Part of the probability lost when only what the map highlights is shown: lower is better; the random method is chance.",
  "model/agreement": "Share of the leading method's evidence that the last block shows at the same places: 1 is all; low means that the last block no longer shows it.",
  "attention entropy": "How evenly a block's attention is spread: 0 is on one token, 1 is uniform, as by chance; near 0 attention has collapsed.",
  "attention distance": "How far attention reaches in a block, as a fraction of the image: neither is better by itself; before training it is that of chance.",
  "attention largest share": "Share of the attention that goes to the token that gets most: above 0.5 one token dominates; chance is 1 over the number of tokens.",
  "outlier token norm": "Norm of the largest token divided by the median norm: above 5, there are outlier tokens that do not stand for their patch; 1 is all equal.",
  "cohort/accuracy": "Share of the cohort's images predicted correctly: higher is better, chance is 1 over the number of classes.",
  "cohort/border_share": "Share of the cohort's evidence in the outer seventh of the image on each side: chance is 0.49, its share of the area.",
  "cohort/center_share": "Share of the cohort's evidence in the central quarter of the image: chance is 0.25, its share of the area.",
  "cohort/spread": "How evenly the cohort's evidence is spread: 0 is one cell, 1 is uniform, as in a random map.",
  "cohort/share_inside": "Share of the cohort's evidence on the object: higher is better, chance is cohort/area_inside.",
  "cohort/area_inside": "The object's share of the area in the cohort: the share of evidence there by chance.",
  "cohort/agreement": "Share of the leading method's evidence in the cohort that the other default method shows at the same places: 1 is all.",
  "cohort/drift": "How much the mean maps of the classes moved since the previous look: 0 is not at all; below 0.05 they have settled.",
  "cohort/without_evidence": "Share of the cohort's images whose map shows no evidence: lower is better, 0 means that all show some.",
  "cohort/images": "Number of validation images in the cohort.",
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
