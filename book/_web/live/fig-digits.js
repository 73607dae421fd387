// The book's digits network at work in the page.
ddpm.figures.digits = async place => {
  const { slider, choice, action, seed, panel, picture, make, digits } = ddpm;
  await Promise.all([ddpm.load("data-digits"), ddpm.load("data-pictures")]);
  const { config, schedule: { kind, T }, size, weights, name } = ddpm.networks.digits;
  const schedule = ddpm[kind](T), n = config.in_channels * size * size, network = ddpm.unet(config, ddpm.unpack(weights));
  const training = ddpm.trainingPictures && [...ddpm.trainingPictures.rows].map(row => Float64Array.from(row, letter => (letter.charCodeAt(0) - 97) / 8 - 1));
  const SHEET = 64, COUNTS = [5, 10, 20, 50, 100, T], drive = ddpm.driver(place), sheetDrive = ddpm.driver(place, false);
  let records = [], stop;

  const samplers = new Map([["algorithm2", "Algorithm 2"], ["ddim", "DDIM"], ["multistep", "second order"]]);
  const labels = [["", "none"], ...ddpm.range(config.num_classes, k => [String(k), k])];
  const walk = ({ method, steps, label, guidance, model, seed }, count) => {
    const ask = model === "network" ? ddpm.inTurn(network, n, label === "" ? null : Number(label), guidance) : ddpm.recitingNoise(training, schedule);
    const rule = { algorithm2: ddpm.algorithm2(), ddim: ddpm.ddim(), multistep: ddpm.multistep() }[method];
    const times = COUNTS[steps] === T ? ddpm.allTimes(T) : ddpm.logSnrTimesteps(schedule, COUNTS[steps]);
    return ddpm.sampleSteps(ask, ddpm.counterNoise(seed, n, T, count), schedule, rule, times, t => ddpm.counterNoise(seed, n, t, count), { clip: true });
  };

  const view = panel(place, {
    place: slider("step of the walk", 0, 1, 0.01, 0.6, () => records.length ? `t = ${records[index()].from} of ${T}` : "…"),
    play: action("Play", () => {
      stop?.();
      stop = ddpm.play(4, share => view.set({ place: Math.round(100 * share) / 100 }));
    }),
    method: choice("sampler", samplers, "ddim"),
    steps: slider("network evaluations", 0, COUNTS.length - 1, 1, 2, v => String(COUNTS[v])),
    label: choice("digit to ask for", labels, ""),
    guidance: slider("guidance w, with a label", 0, 4, 0.25, 0, v => v.toFixed(2)),
    model: choice("noise from", [["network", "the trained network"], ["recites", "the network that recites its training set"]], "network"),
    sheet: action(`Draw ${SHEET}`, () => many()),
    seed: seed(),
  }, async (state, changed) => {
    view.enable("guidance", state.label !== "" && state.model === "network");
    view.enable("label", state.model === "network");
    if (records.length && [...changed].every(key => key === "place")) return paint();
    const made = [];
    if (!await drive(walk(state, 1), record => made.push(record))) return;
    records = made;
    view.set({ place: state.place });
  });
  const index = () => Math.round(view.state.place * (records.length - 1));

  const titles = [
    ["x_t", "the noisy picture"], ["ε̂ / 2, the noise found", "the predicted noise"],
    ["x̂_0, what is left of x_t", "the predicted picture"], ["nearest training picture", "the training picture nearest to it"],
  ];
  const [noisy, predicted, clean, nearest] = ddpm.gallery(view.stage, training ? titles : titles.slice(0, 3), size, config.in_channels);

  function paint() {
    const { from, x0, noise } = records[index()];
    const before = index() ? records[index() - 1].x : ddpm.counterNoise(view.state.seed, n, T);
    noisy.paint(before);
    predicted.paint(noise.map(e => e / 2));
    clean.paint(x0);
    noisy.describe(`The picture at t = ${from}.`);
    const rows = [["t", String(from)], ["network evaluations", String(records.length)]];
    if (nearest) {
      const far = training.map(other => Math.sqrt(ddpm.sum(Array.from(x0, (v, i) => (v - other[i]) ** 2))));
      const best = far.indexOf(Math.min(...far));
      nearest.paint(training[best]);
      nearest.describe(`A ${ddpm.trainingPictures.labels[best]} of the training set.`);
      rows.push(["distance of x̂_0 to the nearest training picture", digits(far[best] < 1e-9 ? 0 : far[best])], ["which shows a", ddpm.trainingPictures.labels[best]]);
    }
    view.numbers(rows);
  }

  // The last two sheets stand side by side: of one seed they begin at the same noises.
  const sheets = make("div", { className: "live-sheets" });

  async function many() {
    const state = { ...view.state }, told = make("p", { role: "status" }), grid = make("div", { className: "live-sheet" });
    const tiles = ddpm.range(SHEET, i => picture(grid, `digit ${i + 1}`, size, config.in_channels));
    const paint = x => tiles.forEach((tile, i) => tile.paint(x.subarray(i * n, (i + 1) * n)));
    const asked = state.model === "network" ? state.label && `, asked for ${state.label}` : ", reciting";
    const title = samplers.get(state.method) + asked;
    view.stage.append(sheets);
    sheets.append(make("div", {}, told, grid));
    while (sheets.children.length > 2) sheets.firstChild.remove();
    const start = performance.now();
    let done = 0, last;
    const all = await sheetDrive(walk(state, SHEET), record => {
      last = record.x;
      paint(record.x0);
      told.textContent = `${title}: step ${++done} of ${COUNTS[state.steps]}`;
    });
    if (!all) return;
    paint(last);
    told.textContent = `${title}: ${SHEET} pictures, ${done} network evaluations each, in ${((performance.now() - start) / 1000).toFixed(1)} s.`;
  }
};
