// The book's formulas in JavaScript, as in the package `ddpm_nb`: same names, same tables, same random numbers. Nothing
// here knows of a page; tests/test_live.py runs it in node and compares it with Python.
globalThis.ddpm = Object.assign(globalThis.ddpm ?? {}, (() => {
  const { exp, log, sqrt, min, max, PI } = Math;
  const sum = values => values.reduce((a, b) => a + b, 0);
  const range = (n, f) => Array.from({ length: n }, (_, i) => f(i));

  // ---- The forward process (chapter forward) ----

  // Tables for t = 0 … T from β_1 … β_T. Entry 0 means "no noise yet".
  function schedule(betas) {
    const beta = [0, ...betas], alphaBar = [1];
    for (const b of betas) alphaBar.push(alphaBar.at(-1) * (1 - b));
    return { T: betas.length, beta, alphaBar, logSnr: alphaBar.map(a => log(a / (1 - a))) };
  }

  const linear = (T = 1000, first = 1e-4, last = 0.02) =>
    schedule(range(T, i => T === 1 ? first : first + (last - first) * i / (T - 1)));

  function cosine(T = 1000, s = 0.008) {
    const f = range(T + 1, t => Math.cos((t / T + s) / (1 + s) * PI / 2) ** 2);
    return schedule(range(T, i => min(1 - f[i + 1] / f[i], 0.999)));
  }

  // The jump: √ᾱ x_0 + √(1 − ᾱ) ε.
  function qSample(x0, t, noise, { alphaBar }) {
    const signal = sqrt(alphaBar[t]), spread = sqrt(1 - alphaBar[t]);
    return x0.map((x, i) => signal * x + spread * noise[i]);
  }

  // ---- Normal densities and mixtures (chapters likelihood and posterior) ----

  const gaussianLogProb = (x, mean, variance) => -0.5 * ((x - mean) ** 2 / variance + log(2 * PI * variance));

  // The logarithm of a mixture's density at a point x, an array as long as a mean.
  function logProb({ weights, means, stds }, x) {
    const logs = weights.map((w, k) =>
      log(w) + sum(means[k].map((m, i) => gaussianLogProb(x[i], m, stds[k] ** 2))));
    const largest = max(...logs);
    return largest + log(sum(logs.map(l => exp(l - largest))));
  }

  // The distribution of x_t for x_0 from a mixture: bumps, moved and widened.
  const noisedMixture = ({ weights, means, stds }, t, { alphaBar }) => ({
    weights,
    means: means.map(mean => mean.map(m => sqrt(alphaBar[t]) * m)),
    stds: stds.map(s => sqrt(alphaBar[t] * s * s + 1 - alphaBar[t])),
  });

  // ε*: a model like any other, (x, t) → noise, for points that lie one after another in x.
  function optimalNoise({ weights, means, stds }, { alphaBar }) {
    const D = means[0].length, K = weights.length, log_r = new Float64Array(K);
    return (x, t) => {
      const a = alphaBar[t], noise = new Float64Array(x.length);
      const v = stds.map(s => a * s * s + 1 - a), prior = v.map((v, k) => log(weights[k]) - 0.5 * D * log(v));
      const centre = means.map(mean => mean.map(m => sqrt(a) * m));
      for (let p = 0; p < x.length; p += D) {
        let largest = -Infinity, total = 0;
        for (let k = 0; k < K; k++) {
          log_r[k] = prior[k];
          for (let i = 0; i < D; i++) log_r[k] -= 0.5 * (x[p + i] - centre[k][i]) ** 2 / v[k];
          largest = max(largest, log_r[k]);
        }
        for (let k = 0; k < K; k++) total += exp(log_r[k] - largest);
        for (let k = 0; k < K; k++) {
          const factor = exp(log_r[k] - largest) / total * sqrt(1 - a) / v[k];
          for (let i = 0; i < D; i++) noise[p + i] += factor * (x[p + i] - centre[k][i]);
        }
      }
      return noise;
    };
  }

  // E Var(ε | x_t) of a coordinate, for a mixture in the plane: what the best guess leaves open, by a sum over a grid.
  function openNoise(mixture, t, schedule, fineness = 0.4) {
    const q = noisedMixture(mixture, t, schedule), step = fineness * max(...q.stds);
    const half = max(...q.means.flat().map(Math.abs)) + 6 * max(...q.stds);
    const axis = range(Math.ceil(2 * half / step), i => i * step - half);
    const points = axis.flatMap(x => axis.map(y => [x, y])), noise = optimalNoise(mixture, schedule)(points.flat(), t);
    return 1 - sum(points.map((p, i) => exp(logProb(q, p)) * (noise[2 * i] ** 2 + noise[2 * i + 1] ** 2) / 2)) * step ** 2;
  }

  // The network with the smallest loss on a training set: x̂_0 is a softmax-weighted mean of its pictures.
  function recitingNoise(pictures, { alphaBar }) {
    const D = pictures[0].length, near = new Float64Array(pictures.length);
    return (x, t) => {
      const a = alphaBar[t], root = sqrt(a), noise = new Float64Array(x.length);
      for (let p = 0; p < x.length; p += D) {
        let largest = -Infinity, total = 0;
        pictures.forEach((picture, n) => {
          let square = 0;
          for (let i = 0; i < D; i++) square += (x[p + i] - root * picture[i]) ** 2;
          near[n] = -0.5 * square / (1 - a);
          largest = max(largest, near[n]);
        });
        const x0 = new Float64Array(D);
        pictures.forEach((picture, n) => {
          const weight = exp(near[n] - largest);
          total += weight;
          if (weight > 0) for (let i = 0; i < D; i++) x0[i] += weight * picture[i];
        });
        for (let i = 0; i < D; i++) noise[p + i] = (x[p + i] - root * x0[i] / total) / sqrt(1 - a);
      }
      return noise;
    };
  }

  // ∫ over an evenly spaced grid, by the trapezoid rule.
  const integral = (values, grid) => (sum(values) - (values[0] + values.at(-1)) / 2) * (grid[1] - grid[0]);

  // KL(a ‖ b) of two densities that are given by their logarithms on a grid; where a has nothing it costs nothing.
  const kl = (logA, logB, grid) =>
    integral(logA.map((a, i) => a === -Infinity ? 0 : exp(a) * (a - logB[i])), grid);

  // Mean and variance of a density on a grid.
  function moments(density, grid) {
    const mean = integral(density.map((d, i) => d * grid[i]), grid);
    return { mean, variance: integral(density.map((d, i) => d * (grid[i] - mean) ** 2), grid) };
  }

  // q(x_{t−1} | x_t) for data at t − 1 from a mixture, by Bayes' rule on a grid: ∝ q(x_t | x_{t−1}) q(x_{t−1}).
  function stepBack(mixture, xt, beta, grid) {
    const logs = grid.map(x => logProb(mixture, [x]) + gaussianLogProb(xt, sqrt(1 - beta) * x, beta));
    const largest = max(...logs), evidence = log(integral(logs.map(l => exp(l - largest)), grid)) + largest;
    const logBack = logs.map(l => l - evidence), back = logBack.map(exp);
    const { mean, variance } = moments(back, grid);
    const logBell = grid.map(x => gaussianLogProb(x, mean, variance));
    return { back, bell: logBell.map(exp), mean, variance, kl: kl(logBack, logBell, grid) };
  }

  // Mean and variance of q(x_{t−1} | x_t, x_0).
  function posterior(x0, xt, t, { beta, alphaBar }) {
    const rest = 1 - alphaBar[t], before = 1 - alphaBar[t - 1];
    return {
      mean: (sqrt(alphaBar[t - 1]) * beta[t] * x0 + sqrt(1 - beta[t]) * before * xt) / rest,
      variance: before / rest * beta[t],
    };
  }

  // ---- Samplers (chapters algorithms and fewer_steps) ----
  // A rule takes what is predicted at t to the time s: the mean of x_s, and how much fresh noise to add.

  // Algorithm 2, with strides or without: line 4 of the chain that visits t and s. The variance is "large" (β'), "small"
  // (its posterior variance) or a function of (t, s).
  const algorithm2 = (variance = "large") => ({ t, x, noise }, s, { alphaBar }) => {
    const alpha = alphaBar[t] / alphaBar[s], beta = 1 - alpha, rest = 1 - alphaBar[t];
    const mean = x.map((x, i) => (x - beta / sqrt(rest) * noise[i]) / sqrt(alpha));
    const square = typeof variance === "function" ? variance(t, s)
      : variance === "large" ? beta : (1 - alphaBar[s]) / rest * beta;
    return { mean, sigma: sqrt(square) };
  };

  const ddimSigma = (t, s, { alphaBar }, eta) =>
    eta * sqrt((1 - alphaBar[s]) / (1 - alphaBar[t]) * (1 - alphaBar[t] / alphaBar[s]));

  const ddim = (eta = 0) => ({ t, x0, noise }, s, schedule) => {
    const sigma = eta && ddimSigma(t, s, schedule, eta), signal = sqrt(schedule.alphaBar[s]);
    const old = sqrt(max(1 - schedule.alphaBar[s] - sigma * sigma, 0));
    return { mean: x0.map((x, i) => signal * x + old * noise[i]), sigma };
  };

  // Second order: x̂_0 is read in the middle of the step, on a straight line in λ through this prediction and the one before.
  const multistep = () => (seen, s, schedule) => {
    const { t, x, x0, before } = seen, { alphaBar, logSnr } = schedule;
    const ahead = before && s > 0 ? (logSnr[s] - logSnr[t]) / (2 * (logSnr[t] - logSnr[before.t])) : 0;
    const middle = x0.map((x, i) => ahead ? x + ahead * (x - before.x0[i]) : x);
    const noise = middle.map((m, i) => (x[i] - sqrt(alphaBar[t]) * m) / sqrt(1 - alphaBar[t]));
    return ddim()({ ...seen, x0: middle, noise }, s, schedule);
  };

  const allTimes = T => range(T + 1, i => T - i);

  // S times and 0: the last of each of S equal blocks.
  const timesteps = (T, steps) => [...range(steps, i => Math.floor((steps - i) * T / steps)), 0];

  // Times that are even in λ, half the log signal-to-noise ratio; 0 at the end.
  function logSnrTimesteps({ T, logSnr }, steps, low = -5, high = 3) {
    const half = logSnr.slice(1).map(l => l / 2);
    [low, high] = [max(low, half[T - 1]), min(high, half[0])];
    const nearest = value => 1 + half.reduce(
      (best, l, i) => Math.abs(l - value) < Math.abs(half[best] - value) ? i : best, 0);
    const first = nearest(low), last = nearest(high), times = [first];
    steps = min(steps ?? Infinity, first - last + 1);
    for (let i = 1; i < steps; i++) {
      const t = nearest(low + (high - low) * i / (steps - 1));
      times.push(max(min(t, times[i - 1] - 1), last + steps - 1 - i));
    }
    return [...times, 0];
  }

  // The loop of every sampler, one record a step; `noiseOf(s)` gives the fresh noise of x_s, as long as x. A model that
  // works in slices is a generator: then so is each step (`yield*`), and whoever drives it may pause.
  function* sampleSteps(model, x, schedule, rule, times, noiseOf, { clip = false, mistake } = {}) {
    const { alphaBar } = schedule;
    let before;
    for (let i = 0; i + 1 < times.length; i++) {
      const t = times[i], s = times[i + 1];
      const asked = mistake === "t off by one" ? max(max(t, s) - 1, 1) : max(t, s);
      let noise = model(x, asked);
      if (noise.next) noise = yield* noise;
      let x0 = x.map((x, i) => (x - sqrt(1 - alphaBar[t]) * noise[i]) / sqrt(alphaBar[t]));
      if (clip) {
        x0 = x0.map(x => min(max(x, -1), 1));
        noise = x.map((x, i) => (x - sqrt(alphaBar[t]) * x0[i]) / sqrt(1 - alphaBar[t]));
      }
      const seen = { t, x, noise, x0, before };
      let { mean, sigma } = rule(seen, s, schedule);
      if (mistake === "root forgotten") sigma *= sigma;
      const fresh = sigma && (s > 0 || mistake === "noise at the last step") ? noiseOf(s) : null;
      x = fresh ? mean.map((m, i) => m + sigma * fresh[i]) : mean;
      before = { t, x0 };
      yield { t: s, from: t, x, x0, noise };
    }
  }

  // ---- Random numbers by counter: the same as ddpm_nb's CounterNoise ----

  // The upper 32 bits of a product of two 32-bit numbers.
  function high(a, b) {
    const a0 = a & 0xffff, a1 = a >>> 16, b0 = b & 0xffff, b1 = b >>> 16;
    const lower = a1 * b0 + Math.floor(a0 * b0 / 65536);
    return a1 * b1 + Math.floor(lower / 65536) + Math.floor((a0 * b1 + lower % 65536) / 65536);
  }

  // Philox4x32-10: four words of 32 bits for a counter of four.
  function philox(a, b, c, d, k, m) {
    for (let round = 0; round < 10; round++) {
      const p = high(0xD2511F53, a), q = high(0xCD9E8D57, c);
      [a, b, c, d] = [(q ^ b ^ k) >>> 0, Math.imul(0xCD9E8D57, c) >>> 0,
        (p ^ d ^ m) >>> 0, Math.imul(0xD2511F53, a) >>> 0];
      k = (k + 0x9E3779B9) >>> 0;
      m = (m + 0xBB67AE85) >>> 0;
    }
    return [a, b, c, d];
  }

  // The standard normal noise that enters x_t of `count` pictures of n numbers each, one after another.
  function counterNoise(seed, n, t, count = 1, first = 0) {
    const noise = new Float64Array(count * n);
    for (let image = 0; image < count; image++) {
      for (let i = 0; i < n; i += 2) {
        const words = philox(i >> 2, image + first, t, 0, seed, 0), at = i % 4;
        const radius = sqrt(-2 * log((words[at] + 0.5) / 2 ** 32)), angle = 2 * PI * (words[at + 1] + 0.5) / 2 ** 32;
        noise[image * n + i] = Math.fround(radius * Math.cos(angle));
        if (i + 1 < n) noise[image * n + i + 1] = Math.fround(radius * Math.sin(angle));
      }
    }
    return noise;
  }

  return {
    schedule, linear, cosine, qSample, gaussianLogProb, logProb, noisedMixture, optimalNoise, openNoise, recitingNoise, integral,
    kl, moments, stepBack, posterior, algorithm2, ddimSigma, ddim, multistep, allTimes, timesteps, logSnrTimesteps,
    sampleSteps, philox, counterNoise, range, sum,
  };
})());
