// The U-Net of chapter `unet` and a few dense layers, in JavaScript: forward only, one picture at a time. Weights come
// from tools/live.py as 8-bit numbers. Nothing here knows of a page.
globalThis.ddpm = Object.assign(globalThis.ddpm ?? {}, (() => {
  const silu = x => x.map(x => x / (1 + Math.exp(-x)));
  const add = (a, b) => a.map((x, i) => x + b[i]);

  function bytes(base64) {
    const text = atob(base64), array = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) array[i] = text.charCodeAt(i);
    return array.buffer;
  }

  // Tensors by name. What was rounded is 8-bit numbers, and one scale for each row; the rest is as it was, in 32 bits.
  function unpack({ shapes, rounded, small, exact }) {
    const eighths = new Int8Array(bytes(small)), floats = new Float32Array(bytes(exact)), tensors = {};
    let at = 0, next = 0;
    for (const [name, shape] of Object.entries(shapes)) {
      const size = shape.reduce((a, b) => a * b), rows = shape[0];
      let data;
      if (rounded.includes(name)) {
        data = Float32Array.from(eighths.subarray(at, at + size), (e, i) => e * floats[next + Math.floor(i * rows / size)]);
        at += size;
        next += rows;
      } else data = floats.subarray(next, next += size);
      tensors[name] = { shape, data };
    }
    return tensors;
  }

  function timeEmbedding(t, channels) {
    const half = channels / 2, vector = new Float32Array(channels);
    for (let i = 0; i < half; i++) {
      const angle = (t - 1) * Math.exp(-Math.log(10000) * i / (half - 1));
      vector[i] = Math.sin(angle);
      vector[half + i] = Math.cos(angle);
    }
    return vector;
  }

  // y = W x + b, for the `count` vectors that lie one after another in x.
  function dense(x, { shape: [out, width], data }, { data: bias }, count = 1) {
    const y = new Float32Array(count * out);
    for (let n = 0; n < count; n++) {
      for (let o = 0; o < out; o++) {
        let value = bias[o];
        for (let i = 0; i < width; i++) value += data[o * width + i] * x[n * width + i];
        y[n * out + o] = value;
      }
    }
    return y;
  }

  // A picture is {data, C, H, W}; its channels lie one after another.
  const like = (picture, data) => ({ ...picture, data });

  // Convolution with a 3×3 or 1×1 kernel, a row of the kernel at a time. `pads` are the rows of zeros above and below, and
  // so at the left and right. In 64 bits, which JavaScript adds faster than 32.
  function convolve({ data: x, C, H, W }, { shape: [out, , k], data: weight }, { data: bias }, stride = 1, pads = [k >> 1, k >> 1]) {
    const [above, below] = pads, wide = W + above + below, tall = H + above + below;
    const padded = new Float64Array(C * tall * wide + 2);
    for (let c = 0; c < C; c++) {
      for (let row = 0; row < H; row++) {
        padded.set(x.subarray((c * H + row) * W, (c * H + row + 1) * W), (c * tall + row + above) * wide + above);
      }
    }
    const h = Math.floor((tall - k) / stride) + 1, w = Math.floor((wide - k) / stride) + 1;
    const data = new Float64Array(out * h * w);
    for (let o = 0; o < out; o++) {
      data.fill(bias[o], o * h * w, (o + 1) * h * w);
      for (let c = 0; c < C; c++) {
        for (let i = 0; i < k; i++) {
          const at = ((o * C + c) * k + i) * k, [one, two, three] = k === 3 ? [weight[at], weight[at + 1], weight[at + 2]] : [weight[at], 0, 0];
          for (let row = 0; row < h; row++) {
            const to = (o * h + row) * w, from = (c * tall + row * stride + i) * wide;
            for (let column = 0; column < w; column++) {
              const p = from + column * stride;
              data[to + column] += one * padded[p] + two * padded[p + 1] + three * padded[p + 2];
            }
          }
        }
      }
    }
    return { data, C: out, H: h, W: w };
  }

  function groupNorm(picture, groups, { data: factor }, { data: offset }) {
    const { data: x, C, H, W } = picture, size = C / groups * H * W, data = new Float32Array(x.length);
    for (let g = 0; g < groups; g++) {
      let mean = 0, square = 0;
      for (let i = g * size; i < (g + 1) * size; i++) mean += x[i] / size;
      for (let i = g * size; i < (g + 1) * size; i++) square += (x[i] - mean) ** 2 / size;
      const root = Math.sqrt(square + 1e-6);
      for (let i = g * size; i < (g + 1) * size; i++) {
        const c = Math.floor(i / (H * W));
        data[i] = (x[i] - mean) / root * factor[c] + offset[c];
      }
    }
    return like(picture, data);
  }

  // Channels beside pixels, or pixels beside channels.
  function transpose(x, rows, columns) {
    const y = new Float32Array(x.length);
    for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) y[c * rows + r] = x[r * columns + c];
    return y;
  }

  function attend(query, key, value, N, C) {
    const out = new Float32Array(N * C), weight = new Float32Array(N);
    for (let i = 0; i < N; i++) {
      let largest = -Infinity, total = 0;
      for (let j = 0; j < N; j++) {
        let score = 0;
        for (let c = 0; c < C; c++) score += query[i * C + c] * key[j * C + c];
        weight[j] = score / Math.sqrt(C);
        largest = Math.max(largest, weight[j]);
      }
      for (let j = 0; j < N; j++) total += weight[j] = Math.exp(weight[j] - largest);
      for (let j = 0; j < N; j++) {
        for (let c = 0; c < C; c++) out[i * C + c] += weight[j] / total * value[j * C + c];
      }
    }
    return out;
  }

  function twice(picture) {
    const { data: x, C, H, W } = picture, data = new Float32Array(4 * x.length);
    for (let i = 0; i < data.length; i++) {
      const column = i % (2 * W), row = Math.floor(i / (2 * W)) % (2 * H), c = Math.floor(i / (4 * H * W));
      data[i] = x[(c * H + (row >> 1)) * W + (column >> 1)];
    }
    return { data, C, H: 2 * H, W: 2 * W };
  }

  function concatenate(a, b) {
    const data = new Float32Array(a.data.length + b.data.length);
    data.set(a.data);
    data.set(b.data, a.data.length);
    return { ...a, data, C: a.C + b.C };
  }

  // unet(config, tensors) is a function (x, t, y) → noise of one picture x, C × size × size; y is a label, or nothing.
  function unet(config, tensors) {
    const groups = config.norm_num_groups, levels = config.channel_mult.length;
    const both = name => [tensors[`${name}.weight`], tensors[`${name}.bias`]];
    const norm = (name, h) => groupNorm(h, groups, ...both(name));
    const conv = (name, h, ...how) => convolve(h, ...both(name), ...how);

    function block(name, x, time) {
      const r = `${name}.residual`, hidden = norm(`${r}.norm_1`, x);
      let h = conv(`${r}.conv_1`, like(hidden, silu(hidden.data)));
      const shift = dense(time, ...both(`${r}.time`)), pixels = h.H * h.W;
      h = norm(`${r}.norm_2`, like(h, h.data.map((v, i) => v + shift[Math.floor(i / pixels)])));
      h = conv(`${r}.conv_2`, like(h, silu(h.data)));
      const past = `${r}.shortcut.weight` in tensors ? conv(`${r}.shortcut`, x) : x;
      h = like(h, add(h.data, past.data));
      return `${name}.attention.out.weight` in tensors ? attention(`${name}.attention`, h) : h;
    }

    function attention(name, x) {
      const { C, H, W } = x, N = H * W, seen = transpose(norm(`${name}.norm`, x).data, C, N);
      const [query, key, value] = ["query", "key", "value"].map(part => dense(seen, ...both(`${name}.${part}`), N));
      const out = dense(attend(query, key, value, N, C), ...both(`${name}.out`), N);
      return like(x, add(x.data, transpose(out, N, C)));
    }

    function timeVector(t, y) {
      const first = dense(timeEmbedding(t, config.channels), ...both("time.0"));
      const time = dense(silu(first), ...both("time.2"));
      if (!config.num_classes) return silu(time);
      const row = (y ?? config.num_classes) * time.length, label = tensors["label.weight"].data;
      return silu(add(time, label.subarray(row, row + time.length)));
    }

    return (x, t, y) => {
      const size = Math.sqrt(x.length / config.in_channels), time = timeVector(t, y);
      let h = conv("stem", { data: Float32Array.from(x), C: config.in_channels, H: size, W: size });
      const skips = [h];
      for (let level = 0; level < levels; level++) {
        for (let i = 0; i < config.num_res_blocks; i++) skips.push(h = block(`down.${level}.blocks.${i}`, h, time));
        if (level + 1 < levels) skips.push(h = conv(`down.${level}.resize.conv`, h, 2, [0, 1]));
      }
      h = block("middle.1", block("middle.0", h, time), time);
      for (let level = 0; level < levels; level++) {
        for (let i = 0; i <= config.num_res_blocks; i++) {
          h = block(`up.${level}.blocks.${i}`, concatenate(h, skips.pop()), time);
        }
        if (level + 1 < levels) h = conv(`up.${level}.resize.conv`, twice(h));
      }
      h = norm("norm", h);
      return conv("head", like(h, silu(h.data))).data;
    };
  }

  // A small network for points that lie one after another in x: dense layers of [x, embedding of t], with activations
  // between them.
  function dots(tensors) {
    const layers = Object.keys(tensors).filter(name => name.endsWith("weight")).map(name => name.slice(0, -7));
    const [out, width] = [tensors[`${layers.at(-1)}.weight`].shape[0], tensors[`${layers[0]}.weight`].shape[1]];
    return (x, t) => {
      const count = x.length / out, time = timeEmbedding(t, width - out), input = new Float32Array(count * width);
      for (let n = 0; n < count; n++) {
        input.set(x.slice(n * out, (n + 1) * out), n * width);
        input.set(time, n * width + out);
      }
      return layers.reduce((h, name, i) =>
        dense(i ? silu(h) : h, tensors[`${name}.weight`], tensors[`${name}.bias`], count), input);
    };
  }

  // A network's answer about many pictures that lie one after another in x, a picture at a time: whoever drives the
  // generator may stop between two. w is the guidance; without a label there is none.
  function inTurn(network, size, y, w = 0) {
    return function* (x, t) {
      const noise = new Float64Array(x.length);
      for (let p = 0; p < x.length; p += size) {
        const picture = x.slice(p, p + size), free = y == null || w ? network(picture, t) : null;
        if (y == null) noise.set(free, p);
        else network(picture, t, y).forEach((e, i) => { noise[p + i] = w ? e + w * (e - free[i]) : e; });
        yield;
      }
      return noise;
    };
  }

  return { unpack, unet, dots, inTurn };
})());
