// How the search weighs a hit. As Sphinx does, but pages for people come before most of the reference: first a
// symptom that is put in these words, then the pages of start and guides whose headings have one of them.
var Scorer = {
  score: ([docname, title, , , score, , kind]) => {
    if (docname === "start/symptoms") return score + (kind === "title" ? 8 : score >= 15 ? 1 : 0);
    if (kind === "object") return score + (/[A-Z_][^.]*$/.test(title) ? 2 : 0); // a name, not a word
    return score + (score >= 15 && /^(start|guides)\//.test(docname) ? 2 : 0);
  },
  objNameMatch: 11, // the name of an object, whole
  objPartialMatch: 6, // or in part
  objPrio: { 0: 5, 1: 5, 2: -5 }, // modules, then all other names
  objPrioDefault: 0,
  title: 15, // a word of a title or a heading
  partialTitle: 7,
  term: 5, // a word of the text
  partialTerm: 2,
};
