// One bell against two bumps, and both divergences between them.
ddpm.figures.likelihood = place => {
  const { slider, action, panel, plot, digits, logProb, gaussianLogProb, kl } = ddpm;
  const data = { weights: [0.3, 0.7], means: [[-2], [2]], stds: [0.5, 0.5] };
  const grid = ddpm.range(1601, i => i / 50 - 16), logP = grid.map(x => logProb(data, [x]));
  const shown = ddpm.range(281, i => 460 + 2 * i + 60), xs = shown.map(i => grid[i]);

  const view = panel(place, {
    mean: slider("mean of the bell", -4, 4, 0.05, 0, v => v.toFixed(2)),
    std: slider("its standard deviation", 0.2, 3, 0.05, 1, v => v.toFixed(2)),
    cover: action("Best for KL(data ‖ bell)", () => view.set({ mean: 0.8, std: 1.9 })),
    seek: action("Best for KL(bell ‖ data)", () => view.set({ mean: 2, std: 0.5 })),
  }, ({ mean, std }) => {
    const logQ = grid.map(x => gaussianLogProb(x, mean, std * std));
    const forward = kl(logP, logQ, grid), reverse = kl(logQ, logP, grid);
    const price = (a, b) => shown.map(i => Math.exp(a[i]) * (a[i] - b[i]));
    bell(xs, shown.map(i => Math.exp(logQ[i])));
    forwardPrice(xs, price(logP, logQ));
    reversePrice(xs, price(logQ, logP));
    top.describe(`The data, two bumps, and a bell with mean ${mean} and standard deviation ${std}.`);
    view.numbers([["KL(data ‖ bell)", `${digits(forward)} nats`], ["KL(bell ‖ data)", `${digits(reverse)} nats`]]);
  });

  const top = plot(view.stage, { x: [-5.6, 5.6], y: [0, 1], height: 140, ticks: [-4, -2, 0, 2, 4], label: "densities" });
  top.area("grey")(xs, shown.map(i => Math.exp(logP[i])));
  const bell = top.line("model");
  top.text("muted", -5.4, 0.88, "data: grey");
  top.text("model", 5.4, 0.88, "the bell: drag it", "end");
  top.drag(x => view.set({ mean: Math.round(20 * x) / 20 }));
  const prices = plot(view.stage, {
    x: [-5.6, 5.6], y: [-0.5, 2], height: 140, ticks: [-4, -2, 0, 2, 4], xlabel: "x",
    label: "What each x adds to the two divergences: the numbers below are the areas, what lies under zero counted negative.",
  });
  prices.rule("muted")({ y: 0 });
  const forwardPrice = prices.area("data"), reversePrice = prices.area("noise");
  prices.text("muted", 0, -0.4, "the area of a colour is its KL; below zero it counts negative", "middle");
  prices.text("data", -5.4, 1.75, "data · log(data / bell)");
  prices.text("noise", 5.4, 1.75, "bell · log(bell / data)", "end");
};
