// One step back by Bayes' rule, without knowing the start: the truth and the bell.
ddpm.figures.posterior = place => {
  const { slider, choice, panel, plot, digits, logProb, noisedMixture, gaussianLogProb, stepBack } = ddpm;
  const bumps = { weights: [0.3, 0.7], means: [[-1], [1]], stds: [0.15, 0.15] };
  const before = { 100: noisedMixture(bumps, 100, ddpm.linear()), 0: bumps };
  const grid = ddpm.range(2001, i => i / 250 - 4);
  const shown = ddpm.range(1251, i => i + 375), xs = shown.map(i => grid[i]);
  const tall = values => { const top = Math.max(...values); return shown.map(i => values[i] / top); };

  const view = panel(place, {
    x_t: slider("x_t, where the walk is now", -2, 2, 0.02, 0.1, v => v.toFixed(2)),
    beta: slider("β, how large the step was", -4, -0.02, 0.01, -0.05, v => (10 ** v).toPrecision(3)),
    data: choice("data before the step", [["100", "two bumps, noised up to t = 100"], ["0", "two bumps, as sharp as they are"]], "100"),
  }, ({ x_t, beta: power, data }) => {
    const beta = 10 ** power, mixture = before[data], found = stepBack(mixture, x_t, beta, grid);
    const from = grid.map(x => Math.exp(gaussianLogProb(x_t, Math.sqrt(1 - beta) * x, beta)));
    prior(xs, tall(grid.map(x => Math.exp(logProb(mixture, [x])))));
    likelihood(xs, tall(from));
    const top = Math.max(...found.back, ...found.bell);
    truth(xs, shown.map(i => found.back[i] / top));
    bell(xs, shown.map(i => found.bell[i] / top));
    marks.forEach(mark => mark({ x: x_t }));
    here(x_t + 0.06, 0.06, "x_t");
    const humps = found.back.filter((y, i, all) => i && i + 1 < all.length && y > all[i - 1] && y >= all[i + 1] && y > 1e-6 * top).length;
    below.describe(`The true step back has ${humps === 1 ? "one hump" : `${humps} humps`}; the bell has mean ${found.mean.toFixed(2)}.`);
    view.numbers([
      ["KL(truth ‖ bell)", `${digits(found.kl)} nats`], ["humps", String(humps)],
      ["mean of x_{t−1}", digits(found.mean)], ["its standard deviation", digits(Math.sqrt(found.variance))],
      ["√β, for comparison", digits(Math.sqrt(beta))],
    ]);
  });

  const scale = { x: [-2.5, 2.5], y: [0, 1.25], ticks: [-2, -1, 0, 1, 2] };
  const above = plot(view.stage, { ...scale, height: 120, label: "What is multiplied: the data's density, and how likely x_t is from each place." });
  const prior = above.area("grey"), likelihood = above.line("noise");
  above.text("muted", -2.4, 1.1, "q(x_{t−1}): grey");
  above.text("noise", 2.4, 1.1, "q(x_t | x_{t−1})", "end");
  const below = plot(view.stage, { ...scale, height: 150, xlabel: "x_{t−1}", label: "the true step back and its bell" });
  const truth = below.area("data"), bell = below.line("model dashed");
  below.text("data", -2.4, 1.12, "their product: the true step back");
  below.text("model", 2.4, 1.12, "dashed: its bell", "end");
  const here = above.text("muted", 0, 0, ""), marks = [above.rule("muted"), below.rule("muted")];
  [above, below].forEach(each => each.drag(x => view.set({ x_t: Math.round(50 * x) / 50 })));
};
