// One number and two bumps: how the walks of DDIM's family look, from jagged to smooth, and where they end.
ddpm.figures.paths = place => {
  const { slider, seed, panel, plot, digits, logProb } = ddpm;
  const bumps = { weights: [0.3, 0.7], means: [[-1], [1]], stds: [0.1, 0.1] };
  const schedule = ddpm.linear(), { T } = schedule, model = ddpm.optimalNoise(bumps, schedule);
  const N = 400, DRAWN = 20, COUNTS = [2, 5, 10, 20, 50, 200, 1000];
  const bins = ddpm.range(60, i => i / 12 - 2.5), grid = ddpm.range(301, i => i / 60 - 2.5);
  const drive = ddpm.driver(place);
  let crowd;

  const view = panel(place, {
    eta: slider("η, how much fresh noise", 0, 1, 0.05, 1, v => v.toFixed(2)),
    steps: slider("network evaluations S", 0, COUNTS.length - 1, 1, 4, v => String(COUNTS[v])),
    start: slider("start of the marked walk, x_T", -2.5, 2.5, 0.05, 0.2, v => v.toFixed(2)),
    seed: seed(1),
  }, async ({ eta, steps, start, seed }, changed) => {
    const times = ddpm.timesteps(T, COUNTS[steps]);
    const walk = function* (x, picture, rule = ddpm.ddim(eta), along = times) {
      const way = [x], { length } = x;
      for (const step of ddpm.sampleSteps(model, x, schedule, rule, along, t => ddpm.counterNoise(seed, 1, t, length, picture))) {
        way.push(step.x);
        yield;
      }
      return way;
    };
    // The same noises for the crowd whatever is changed; only the marked walk starts where the reader says.
    const all = function* () {
      if (!crowd || [...changed].some(key => key !== "start")) crowd = yield* walk(ddpm.counterNoise(seed, 1, T, N, 1), 1);
      const mine = yield* walk(Float64Array.of(start), 0);
      const up = eta ? null : yield* walk(mine.at(-1), 0, ddpm.ddim(), [...times].reverse().map(t => t || 0));
      yield* finish(times, mine, up);
    };
    await drive(all());
  });

  function* finish(times, mine, up) {
    const xs = times.map(t => T - t);
    for (const [n, draw] of paths.entries()) {
      draw(xs, crowd.map(x => x[n]));
      yield;
    }
    marked(xs, mine.map(x => x[0]));
    back(up ? [...xs].reverse() : [], up ? up.map(x => x[0]) : []);
    start(0, mine[0][0]);
    const last = crowd.at(-1), heights = bins.map(() => 0);
    for (const x of last) {
      const bin = Math.floor((x + 2.5) * 12);
      if (bin in heights) heights[bin] += 12 / N;
    }
    histogram(bins.flatMap(b => [b, b + 1 / 12]), heights.flatMap(h => [h, h]));
    const left = last.filter(x => x < 0).length / N;
    ways.describe(`${DRAWN} walks from noise at the left to data at the right; the marked one ends at ${mine.at(-1)[0].toFixed(2)}.`);
    view.numbers([
      ["the marked walk ends at", digits(mine.at(-1)[0])],
      ["and back up again, η = 0", up ? `${digits(up.at(-1)[0])} (it began at ${mine[0][0].toFixed(2)})` : "fresh noise has no way back"],
      ["in the left bump (data: 30 %)", `${(100 * left).toFixed(0)} ± ${(100 * Math.sqrt(left * (1 - left) / N)).toFixed(0)} % of ${N} walks`],
    ]);
  }

  const ways = plot(view.stage, { x: [0, T], y: [-4, 4], height: 230, ticks: [[0, "t = 1000", "start"], [500, "500"], [T, "0", "end"]], label: "walks" });
  const paths = ddpm.range(DRAWN, () => ways.line("thin data")), marked = ways.line("noise"), back = ways.line("model dashed"), start = ways.dot("noise");
  for (const y of [-1, 1]) {
    ways.rule("muted")({ y });
    ways.text("muted", 8, y + 0.12, String(y).replace("-", "−"));
  }
  ways.text("data", 8, 3.45, `${DRAWN} of ${N} walks`);
  ways.text("noise", 0.5 * T, 3.45, "marked: drag it", "middle");
  ways.text("model", T - 8, 3.45, "dashed: back up", "end");
  ways.drag((x, y) => view.set({ start: Math.round(20 * y) / 20 }));
  const ends = plot(view.stage, { x: [-2.5, 2.5], y: [0, 3.8], height: 120, ticks: [-2, -1, 0, 1, 2], xlabel: "x_0", label: "where 400 walks end, and the data's density" });
  const histogram = ends.area("data");
  ends.line("muted")(grid, grid.map(x => Math.exp(logProb(bumps, [x]))));
  ends.text("muted", -2.4, 3.3, "line: the data");
};
