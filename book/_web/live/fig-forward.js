// One digit, two bumps and the schedule, at one t.
ddpm.figures.forward = place => {
  const { slider, choice, panel, plot, digits, logProb, noisedMixture, qSample } = ddpm;
  // The chapter's zero, 8 × 8 pixels in 17 steps of grey, a to q.
  const digit = "aafnjbaaaanpkpfaadpcaliaaemaaiiaafiaajiaaelabmhaacofkmaaaagnkaaa";
  const x0 = Array.from(digit, letter => (letter.charCodeAt(0) - 97) / 8 - 1);
  const noise = Array.from(ddpm.counterNoise(0, 64, 0));
  const bumps = { weights: [0.3, 0.7], means: [[-1], [1]], stds: [0.15, 0.15] };
  const grid = ddpm.range(241, i => i / 40 - 3);
  const verdict = left => left > 0.02 ? "the digit is still there" : left > 1e-3 ? "a trace of the digit" : "nothing can be seen";
  const lengths = [10, 20, 50, 100, 200, 500, 1000];

  const view = panel(place, {
    t: slider("how far, t / T", 0, 1, 0.01, 0.3, v => v.toFixed(2)),
    schedule: choice("schedule", [["linear", "linear"], ["cosine", "cosine"]], "linear"),
    T: slider("number of steps T", 0, lengths.length - 1, 1, lengths.length - 1, v => String(lengths[v])),
    first: slider("first β (linear)", -5, -2, 0.1, -4, v => (10 ** v).toPrecision(2)),
    last: slider("last β (linear)", 0.01, 0.99, 0.01, 0.02, v => v.toFixed(2)),
  }, state => {
    const T = lengths[state.T], t = Math.round(state.t * T);
    const schedule = state.schedule === "linear" ? ddpm.linear(T, 10 ** state.first, state.last) : ddpm.cosine(T);
    const { alphaBar } = schedule, signal = Math.sqrt(alphaBar[t]), spread = Math.sqrt(1 - alphaBar[t]);
    ["first", "last"].forEach(key => view.enable(key, state.schedule === "linear"));
    now.paint(qSample(x0, t, noise, schedule));
    end.paint(qSample(x0, T, noise, schedule));
    now.describe(`The digit at t = ${t}: ${digits(signal)} of it, and ${digits(spread)} of noise.`);
    const times = ddpm.range(T + 1, t => t);
    power(times.map(t => t / T), alphaBar);
    cursor({ x: t / T });
    here(t / T, alphaBar[t]);
    const q = noisedMixture(bumps, t, schedule);
    density(grid, grid.map(x => Math.exp(logProb(q, [x]))));
    view.numbers([
      ["t", `${t} of ${T}`],
      ["ᾱ_t, the signal's share", digits(alphaBar[t])],
      ["√ᾱ_t, what is left of the digit", digits(signal)],
      ["√(1 − ᾱ_t), how wide the noise is", digits(spread)],
      ["signal-to-noise ratio", digits(alphaBar[t] / (1 - alphaBar[t]))],
      ["ᾱ_T, at the end", `${digits(alphaBar[T])}: ${verdict(alphaBar[T])}`],
    ]);
  });

  const [clean, now, end] = ddpm.gallery(view.stage, [
    ["x_0", "the digit without noise"], ["x_t, now", "the digit at t"],
    ["x_T, the end", "the digit at the end, where a sampler would begin"],
  ], 8);
  clean.paint(x0);
  const curve = plot(view.stage, { x: [0, 1], y: [0, 1.05], height: 120, ticks: [0, 0.5, 1], xlabel: "t / T", label: "alpha-bar against t" });
  const power = curve.area("signal"), cursor = curve.rule("muted"), here = curve.dot("signal");
  curve.text("signal", 0.97, 0.9, "ᾱ_t", "end");
  curve.drag(x => view.set({ t: x }));
  const two = plot(view.stage, { x: [-3, 3], y: [0, 2], height: 120, ticks: [-2, 0, 2], xlabel: "x_t, for data in two bumps", label: "the density of x_t" });
  two.area("grey")(grid, grid.map(x => Math.exp(logProb(bumps, [x]))));
  const density = two.area("data");
  const normal = two.line("noise");
  normal(grid, grid.map(x => Math.exp(ddpm.gaussianLogProb(x, 0, 1))));
  two.text("muted", -2.9, 1.75, "data: grey");
  two.text("data", -0.4, 1.75, "x_t: blue", "middle");
  two.text("noise", 2.9, 1.75, "pure noise: line", "end");
};
