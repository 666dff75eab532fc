// How the search weighs a hit. As Sphinx does, but pages for people come before names of the reference:
// first a symptom whose heading has the words, then the pages of start and guides.
var Scorer = {
  score: ([docname, , , , score, , kind]) => {
    if (docname === "start/symptoms") return score + (kind === "title" ? 6 : score < 15 ? 0 : 2.5);
    return score + (score >= 15 && /^(start|guides)\//.test(docname) ? 2 : 0);
  },
  objNameMatch: 11, // the name of an object, whole
  objPartialMatch: 6, // or in part
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15, // a word of a title or a heading
  partialTitle: 7,
  term: 5, // a word of the text
  partialTerm: 2,
};
