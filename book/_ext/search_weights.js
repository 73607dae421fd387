// How the site's search weighs what it found, and what it quotes. Sphinx copies this text into its own script
// (functions.py).
//
// Sphinx gives a page the same weight for one word of the question in one of its headings as for all of them in its
// title, and ties go by the alphabet. Here the chapter about a subject comes first, then the parts of chapters that
// are about it, then the functions of that name; after them what only mentions it, in reading order.
var Scorer = {
  objNameMatch: 7,
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
    const question = new URLSearchParams(location.search).get("q") ?? "";
    // A function or a class comes first where its name can be nothing else, as "q_sample", and after its chapter else.
    if (descr !== null) return score + (/[._]/.test(question) ? 5 : 0);
    // "4. The bound becomes a sum" or "4. The bound becomes a sum > Exercises", with the number in a tag.
    const text = new DOMParser().parseFromString(title, "text/html").body.textContent;
    const [, number, page, part] = text.match(/^(?:(\d+)\. )?(.*?)(?: > (.*))?$/s);
    // The number keeps Sphinx from seeing that this is the title; named as the page itself it is listed once.
    if (part === page) result[1] = title.slice(0, title.indexOf(" > "));
    const whole = part === undefined || part === page;
    const meaning = Scorer.meanings.includes(docname), list = Scorer.lists.includes(docname);
    const found = (meaning || list ? Math.min(score, Scorer.term) + 3 * meaning : score) - (number ? number / 100 : 1);
    if ((meaning || list) && !whole) return found;

    const asked = Scorer.words(question);
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

// What is quoted comes from the section that says most of the words, with a link to it; formulas without their TeX.
addEventListener("DOMContentLoaded", () => {
  const question = (new URLSearchParams(location.search).get("q") ?? "").toLowerCase();
  Search.makeSearchSummary = (html, stems) => {
    const words = new Set([...stems, ...splitQuery(question), question]);
    const page = new DOMParser().parseFromString(html, "text/html");
    page.querySelectorAll(".headerlink, script, style, annotation, .visually-hidden").forEach((tag) => tag.remove());
    let best = null;
    for (const section of page.querySelectorAll('[role="main"] section')) {
      const own = section.cloneNode(true);
      own.querySelectorAll("section").forEach((part) => part.remove());
      const heading = own.querySelector("h1, h2, h3, h4"), title = heading?.textContent.trim() ?? "";
      heading?.remove();
      const text = own.textContent.replace(/\s+/g, " ").trim(), low = text.toLowerCase();
      const found = [...words].map((word) => low.indexOf(word)).filter((place) => place >= 0);
      if (found.length > (best?.found.length ?? 0)) best = { id: section.id, title, text, found };
    }
    if (!best) return null;
    const from = Math.max(Math.min(...best.found) - 120, 0), to = from + 240;
    const summary = document.createElement("p"), link = document.createElement("a");
    summary.className = "context";
    link.textContent = best.title;
    const cut = (from ? "…" : "") + best.text.slice(from, to).trim() + (to < best.text.length ? "…" : "");
    summary.append(link, `: ${cut}`);
    // It is not on the page yet; then the result above it says which file this is.
    queueMicrotask(() => { link.href = summary.parentElement.querySelector("a").href.replace(/#.*|$/, `#${best.id}`); });
    return summary;
  };
});
