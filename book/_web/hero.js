// The first page's digit: frames of one run of Algorithm 2, which tools/pictures.py stored in hero.png, to be played,
// stopped and dragged.
const hero = document.querySelector(".hero");
const [play, next] = hero.querySelectorAll("button");
const slider = hero.querySelector("input");
const t = hero.querySelector("output");
const FRAMES = 25, STEP = 20, MILLISECONDS = 160;
let timer;

function show() {
  hero.style.setProperty("--frame", slider.value);
  // The text itself: a new child in the page would keep the theme from its work at every frame.
  t.firstChild.data = STEP * (FRAMES - slider.value);
  slider.setAttribute("aria-valuetext", `t = ${t.firstChild.data}`);
}

function stop() {
  clearInterval(timer);
  timer = undefined;
  play.textContent = "Play";
}

function start() {
  if (+slider.value === FRAMES) slider.value = 0;
  play.textContent = "Pause";
  timer = setInterval(() => {
    slider.value = +slider.value + 1;
    if (+slider.value === FRAMES) stop();
    show();
  }, MILLISECONDS);
  show();
}

play.addEventListener("click", () => timer ? stop() : start());
slider.addEventListener("input", () => { stop(); show(); });
next.addEventListener("click", () => {
  stop();
  hero.style.setProperty("--row", ((+hero.style.getPropertyValue("--row") || 0) + 1) % 4);
  slider.value = 0;
  start();
});
hero.querySelector(".hero-controls").classList.remove("waiting");
show();
// Who wants no motion gets none, until it is asked for.
if (matchMedia("(prefers-reduced-motion: no-preference)").matches) start();
