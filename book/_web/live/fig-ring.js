// Algorithm 2 on five bumps: every step of 300 points, and what each of its parts is for.
ddpm.figures.ring = async place => {
  const { slider, choice, check, action, seed, panel, canvas, digits } = ddpm;
  const N = 300, HALF = 3.2, SIZE = 400, COUNTS = [1, 5, 10, 20, 50, 200, 1000];
  const ring = {
    weights: [0.10, 0.15, 0.20, 0.25, 0.30],
    means: ddpm.range(5, k => [1.5 * Math.sin(k * 2 * Math.PI / 5), 1.5 * Math.cos(k * 2 * Math.PI / 5)]),
    stds: [0.25, 0.25, 0.25, 0.25, 0.25],
  };
  const schedule = ddpm.linear(), exact = ddpm.optimalNoise(ring, schedule);
  const drive = ddpm.driver(place), opened = {};
  let learned, records = [], walking = false, stop;

  // σ*², the best variance between the paper's two, from how much of the noise x_t leaves open.
  const best = (t, s) => {
    const { alphaBar } = schedule, alpha = alphaBar[t] / alphaBar[s], rest = 1 - alphaBar[t];
    opened[t] ??= ddpm.openNoise(ring, t, schedule) * rest / alphaBar[t];
    const factor = Math.sqrt(alphaBar[s]) * (1 - alpha) / rest;
    return (1 - alphaBar[s]) / rest * (1 - alpha) + factor ** 2 * opened[t];
  };

  const view = panel(place, {
    place: slider("step of the walk", 0, 1, 0.01, 1, () => records.length ? `t = ${timeNow()}` : "…"),
    play: action("Play", () => {
      stop?.();
      stop = ddpm.play(4, share => view.set({ place: Math.round(100 * share) / 100 }));
    }),
    steps: slider("network evaluations", 0, 6, 1, 4, v => String(COUNTS[v])),
    z: check("fresh noise z", true),
    variance: choice("variance σ²", [["large", "β (large)"], ["small", "β̃ (small)"], ["best", "σ*² (best)"]], "large"),
    model: choice("noise from", [["exact", "the perfect network ε*"], ["learned", "a network that was trained"]], "exact"),
    mistake: choice("mistake", [
      ["", "none"], ["root forgotten", "root of σ² forgotten"], ["t off by one", "network asked about t − 1"],
      ["noise at the last step", "noise at the last step"],
    ], ""),
    arrows: check("arrows: the way against ε̂", false),
    x: slider("marked start, across", -3, 3, 0.05, 1.2, v => v.toFixed(2)),
    y: slider("marked start, up", -3, 3, 0.05, 0.6, v => v.toFixed(2)),
    seed: seed(),
  }, async (state, changed) => {
    const walk = ["steps", "z", "variance", "model", "mistake", "seed", "x", "y"];
    if (changed.size === 0 || ["place", "arrows"].some(key => changed.has(key)) && !walk.some(key => changed.has(key))) return paint();
    const alone = records.length > 0 && !walking && [...changed].every(key => key === "x" || key === "y");
    if (state.model === "learned" && !learned) {
      await ddpm.load("data-plane");
      learned = ddpm.dots(ddpm.unpack(ddpm.networks.plane.weights));
    }
    begin(alone);
  });
  const scene = canvas(view.stage, SIZE, SIZE, "Points in the plane on their way from noise to five bumps.");

  const index = () => Math.round(view.state.place * (records.length - 1));
  const timeNow = () => records[index()].t;
  const net = () => view.state.model === "learned" && learned ? learned : exact;

  // The marked point is point 0; alone, only it walks again.
  async function begin(alone) {
    const { steps, z, variance, mistake, seed, x, y } = view.state, count = alone ? 1 : N;
    const noiseOf = t => z ? ddpm.counterNoise(seed, 2, t, count) : null;
    const first = ddpm.counterNoise(seed, 2, schedule.T, count);
    first[0] = x;
    first[1] = y;
    const rule = ddpm.algorithm2(variance === "best" ? best : variance);
    const times = ddpm.timesteps(schedule.T, COUNTS[steps]);
    const made = [{ t: schedule.T, x: first }];
    walking = !alone;
    const finished = await drive(ddpm.sampleSteps(net(), first, schedule, rule, times, noiseOf, { mistake }), record => made.push(record));
    if (!finished) return;
    walking = false;
    if (alone) records.forEach((record, i) => { record.x.set(made[i].x.subarray(0, 2)); });
    else records = made;
    view.set({ place: view.state.place });
  }

  const toX = x => SIZE * (x + HALF) / (2 * HALF), toY = y => SIZE * (HALF - y) / (2 * HALF);

  function paint() {
    if (!records.length) return;
    const i = index(), { t, x } = records[i];
    const bumps = ring.weights.map(() => 0);
    for (let n = 0; n < N; n++) {
      const far = ring.means.map(([a, b]) => Math.hypot(x[2 * n] - a, x[2 * n + 1] - b));
      bumps[far.indexOf(Math.min(...far))] += 100 / N;
    }
    scene.paint((context, colour) => {
      context.lineWidth = 1;
      context.strokeStyle = colour("muted");
      ring.means.forEach(([a, b], k) => {
        context.beginPath();
        context.arc(toX(a), toY(b), SIZE / (2 * HALF) * 0.75, 0, 7);
        context.stroke();
      });
      if (view.state.arrows && t > 0) arrows(context, colour("muted"), t);
      context.fillStyle = colour(view.state.model === "learned" ? "model" : "data");
      for (let p = 2; p < x.length; p += 2) context.fillRect(toX(x[p]) - 1.5, toY(x[p + 1]) - 1.5, 3, 3);
      context.strokeStyle = context.fillStyle = colour("noise");
      context.lineWidth = 1.5;
      context.beginPath();
      records.slice(0, i + 1).forEach(({ x }, n) => context[n ? "lineTo" : "moveTo"](toX(x[0]), toY(x[1])));
      context.stroke();
      const [a, b] = records[0].x;
      context.beginPath();
      context.arc(toX(a), toY(b), 4, 0, 7);
      context.fill();
      context.lineWidth = 2.5;
      context.beginPath();
      context.arc(toX(x[0]), toY(x[1]), 6, 0, 7);
      context.stroke();
      context.font = "13.5px sans-serif";
      context.strokeStyle = colour("pst-color-background");
      context.lineWidth = 4;
      const write = (words, x, y) => { context.strokeText(words, x, y); context.fillText(words, x, y); };
      write("start: pull it", toX(a) + 8, toY(b) + 4);
      context.textAlign = "center";
      context.fillStyle = colour("muted");
      ring.means.forEach(([a, b], k) => {
        const x = toX(a), y = b > 0 ? toY(b + 0.75) - 20 : toY(b - 0.75) + 15;
        write(`${bumps[k].toFixed(0)} %`, x, y);
        write(`data ${100 * ring.weights[k]} %`, x, y + 15);
      });
      context.textAlign = "start";
    });
    const stray = ddpm.range(N, n => Math.min(...ring.means.map(([a, b]) => Math.hypot(x[2 * n] - a, x[2 * n + 1] - b))));
    scene.describe(`${N} points at t = ${t}. The marked one is at ${x[0].toFixed(2)}, ${x[1].toFixed(2)}.`);
    view.numbers([
      ["t", String(t)], ["network evaluations", String(records.length - 1)],
      ["marked point", `(${digits(x[0])}, ${digits(x[1])})`],
      ["outside the circles (data: 1 %)", `${(100 * stray.filter(far => far > 0.75).length / N).toFixed(0)} %`],
      ["nearest each bump, from the top clockwise", `${bumps.map(share => share.toFixed(0)).join(", ")} %`],
    ]);
  }

  function arrows(context, colour, t) {
    const at = Float64Array.from(ddpm.range(13 * 13, n => n).flatMap(n => [(n % 13 - 6) / 2.1, (Math.floor(n / 13) - 6) / 2.1]));
    const noise = net()(at, t);
    context.strokeStyle = colour;
    context.lineWidth = 1;
    context.beginPath();
    for (let p = 0; p < at.length; p += 2) {
      const length = Math.hypot(noise[p], noise[p + 1]), size = Math.min(length, 2.5) / 7 / (length || 1);
      const [x, y] = [at[p], at[p + 1]], [dx, dy] = [-noise[p] * size, -noise[p + 1] * size];
      context.moveTo(toX(x), toY(y));
      context.lineTo(toX(x + dx), toY(y + dy));
      for (const turn of [-1, 1]) {
        context.moveTo(toX(x + dx), toY(y + dy));
        context.lineTo(toX(x + 0.7 * dx - 0.2 * turn * dy), toY(y + 0.7 * dy + 0.2 * turn * dx));
      }
    }
    context.stroke();
  }

  ddpm.pull(scene.element, (x, y) => view.set({
    x: Math.round(20 * (2 * x - 1) * HALF) / 20, y: Math.round(20 * (1 - 2 * y) * HALF) / 20,
  }), () => [toX(view.state.x) / SIZE, toY(view.state.y) / SIZE]);
};
