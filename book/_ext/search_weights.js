// How the site's search weighs what it found. Sphinx copies this text into its own script (functions.py).
//
// Sphinx gives a page the same weight for one word of the question in one of its headings as for all of them in its
// title, and ties go by the alphabet. Here the chapter about a subject comes first, then the parts of chapters that
// are about it, then the functions of that name; after them what only mentions it, in reading order.
var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 5, 1: 5, 2: -5 }, // a module is no more than its functions: its chapter says what it is about
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,

  // These list what the chapters define. Their headings, and those of the next, repeat the names of the chapters.
  lists: ["book/functions", "book/equations"],
  // These say in a line what a symbol or a word means.
  meanings: ["book/notation", "book/glossary"],

  words: (text) => {
    const stemmer = new Stemmer();
    const said = splitQuery(text.toLowerCase()).filter((word) => !stopwords.includes(word));
    return new Set(said.map((word) => stemmer.stemWord(word)));
  },

  score: (result) => {
    const [docname, title, , descr, score] = result;
    if (descr !== null) return score; // a function or a class
    // "4. The bound becomes a sum" or "4. The bound becomes a sum > Exercises", with the number in a tag.
    const text = new DOMParser().parseFromString(title, "text/html").body.textContent;
    const [, number, page, part] = text.match(/^(?:(\d+)\. )?(.*?)(?: > (.*))?$/s);
    // The number keeps Sphinx from seeing that this is the title; named as the page itself it is listed once.
    if (part === page) result[1] = title.slice(0, title.indexOf(" > "));
    const whole = part === undefined || part === page;
    const meaning = Scorer.meanings.includes(docname), list = Scorer.lists.includes(docname);
    const found = (meaning || list ? Math.min(score, Scorer.term) + 3 * meaning : score) - (number ? number / 100 : 1);
    if ((meaning || list) && !whole) return found;

    const asked = Scorer.words(new URLSearchParams(location.search).get("q") ?? "");
    const heading = Scorer.words(whole ? page : part);
    // A page is also known by the name of its file: "vae", "cifar10".
    const name = whole ? Scorer.words(docname.replace(/.*\//, "").replaceAll("_", " ")) : heading;
    const share = (some, among) =>
      some.size ? [...some].filter((word) => among.has(word)).length / some.size : 0;
    return (
      found
      + (whole ? 20 : 15) * share(asked, new Set([...heading, ...name]))
      + 5 * Math.max(share(heading, asked), share(name, asked))
    );
  },
};
