// Finds the places of live figures and brings each to life when the reader comes near. Whatever fails, the page stays as
// it was: the static picture above each place teaches alone.
(() => {
  const here = document.currentScript.src.replace(/[^/]*$/, "");
  const NEEDS = { ring: ["nn"], digits: ["nn"] };  // besides what every figure needs
  // How high each figure is where it has two columns, and where it has one: room is kept, so that nothing jumps.
  const ROOM = {
    likelihood: [350, 492], forward: [655, 924], posterior: [430, 596], ring: [585, 1068], paths: [498, 700],
    digits: [570, 1012],
  };
  const scripts = {};

  // Loads a script once. Scripts and not modules or data: so a page opened from a file has live figures too.
  const load = name => scripts[name] ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = `${here}${name}.js`;
    script.onload = done;
    script.onerror = () => failed(new Error(`${name}.js did not load`));
    document.head.append(script);
  });

  async function enliven(place) {
    const name = place.dataset.figure;
    place.dataset.state = "loading";
    try {
      await Promise.all(["math", "ui", ...NEEDS[name] ?? []].map(load));
      await load(`fig-${name}`);
      await ddpm.figures[name](place);
      place.dataset.state = "live";
    } catch (error) {
      place.dataset.state = "error";
      console.error(error);
    }
  }

  globalThis.ddpm = { ...globalThis.ddpm, load, figures: {} };
  const near = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(({ target }) => {
    near.unobserve(target);
    enliven(target);
  }), { rootMargin: "400px" });
  for (const place of document.querySelectorAll("[data-figure]")) {
    const body = document.createElement("div"), [wide, narrow] = ROOM[place.dataset.figure];
    body.className = "live-body";
    body.style = `--wide: ${wide}px; --narrow: ${narrow}px`;
    place.insertBefore(body, place.lastElementChild);
    place.dataset.state = "waiting";
    near.observe(place);
  }
})();
