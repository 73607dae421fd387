// What the live figures share: controls with their state in the address, plots, a driver for long work.
Object.assign(ddpm, (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in element && name !== "list") element[name] = value; else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  // Words with x_t and 10^{−5} in them, as pieces with lowered and raised parts.
  const pieces = words => words.split(/([_^](?:\{[^}]*\}|.))/).map((text, i) => i % 2
    ? { tag: text[0] === "_" ? "sub" : "sup", text: text.slice(1).replace(/[{}]/g, "") } : { text });

  // Puts such words into an element, of the page or of a drawing.
  function say(element, words) {
    element.replaceChildren();
    let height = 0;
    for (const { tag, text } of pieces(words)) {
      if (element.namespaceURI === SVG) {
        const wanted = { sub: 3, sup: -4 }[tag] ?? 0;
        draw(element, "tspan", { dy: wanted - height, "font-size": tag ? "75%" : "100%" }).textContent = text;
        height = wanted;
      } else element.append(tag ? make(tag, { textContent: text }) : text);
    }
    return element;
  }

  function draw(parent, tag, attributes = {}) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    parent.append(element);
    return element;
  }

  // Four digits that count.
  function digits(value) {
    if (value === 0 || !Number.isFinite(value)) return String(value).replace("Infinity", "∞");
    const size = Math.abs(value);
    const text = size < 1e-3 || size >= 1e5 ? value.toExponential(3) : value.toPrecision(4);
    return text.replace(/e\+?(-?)(\d+)/, (_, sign, power) => ` · 10^{${sign}${power}}`).replaceAll("-", "−");
  }

  // ---- Controls, described by records: {kind, label, …}. Their values are the panel's state. ----

  const slider = (label, min, max, step, value, show = String) => ({ kind: "range", label, min, max, step, value, show });
  // Options are [[value, text], …]: an object would put numbers first.
  const choice = (label, options, value) => ({ kind: "choice", label, options: new Map(options), value });
  const check = (label, value) => ({ kind: "check", label, value });
  const action = (label, run) => ({ kind: "action", label, run });
  const seed = (value = 0) => ({ kind: "seed", label: "seed", value });

  // A figure's controls and numbers, below an empty stage. `render(state, changed)` is called when a value has changed,
  // once a frame.
  function panel(place, controls, render) {
    const name = place.dataset.figure, address = new URL(location.href).searchParams;
    const stage = make("div", { className: "live-stage" }), box = make("div", { className: "live-controls" });
    const table = make("tbody"), state = {}, inputs = {}, outputs = {};
    let asked, changed = new Set();
    const valued = Object.entries(controls).filter(([, control]) => "value" in control);

    function show(key) {
      const { kind, show: text } = controls[key], input = inputs[key];
      if (kind === "check") input.checked = state[key]; else input.value = state[key];
      if (kind !== "range") return;
      say(outputs[key], text(state[key]));
      input.setAttribute("aria-valuetext", outputs[key].textContent);
    }

    function write() {
      const url = new URL(location.href);
      for (const [key, { value }] of valued) {
        if (state[key] === value) url.searchParams.delete(`${name}.${key}`);
        else url.searchParams.set(`${name}.${key}`, state[key]);
      }
      try { history.replaceState(history.state, "", url); } catch { /* some browsers keep the address of a file */ }
    }

    function refresh() {
      asked ??= requestAnimationFrame(() => {
        const keys = changed;
        asked = undefined;
        changed = new Set();
        render(state, keys);
        write();
      });
    }

    function set(values) {
      for (const [key, value] of Object.entries(values)) {
        const { kind, options } = controls[key];
        if (kind === "range") {
          inputs[key].value = value;  // the browser keeps it on the scale
          state[key] = Number(inputs[key].value);
        }
        else if (kind === "choice") state[key] = options.has(String(value)) ? value : controls[key].value;
        else if (kind === "seed") state[key] = Math.min(Math.max(Math.floor(Number(value)) || 0, 0), 2 ** 32 - 1);
        else state[key] = value === true || value === "true";
        show(key);
        changed.add(key);
      }
      refresh();
    }

    const read = { check: input => input.checked, range: input => Number(input.value) };
    for (const [key, control] of Object.entries(controls)) {
      const { kind, label, options } = control, id = `live-${name}-${key}`;
      if (kind === "action") {
        box.append(make("button", { type: "button", textContent: label, onclick: () => control.run() }));
        continue;
      }
      const input = inputs[key] = kind === "choice"
        ? make("select", { id }, ...[...options].map(([value, text]) => make("option", { value }, text)))
        : make("input", { id, type: { range: "range", check: "checkbox", seed: "number" }[kind] });
      if (kind === "range") Object.assign(input, { min: control.min, max: control.max, step: control.step });
      if (kind === "seed") Object.assign(input, { min: 0, max: 2 ** 32 - 1 });
      input.addEventListener(kind === "seed" ? "change" : "input", () =>
        set({ [key]: (read[kind] ?? (input => input.value))(input) }));
      const row = make("div", { className: `live-${kind}` }, say(make("label", { htmlFor: id }), label), input);
      if (kind === "range") input.before(outputs[key] = make("output", { htmlFor: id }));
      if (kind === "seed") row.append(make("button", { type: "button", textContent: "New noise", onclick: () => set({ [key]: state[key] + 1 }) }));
      box.append(row);
    }
    box.append(make("button", {
      type: "button", textContent: "Reset",
      onclick: () => set(Object.fromEntries(valued.map(([key, { value }]) => [key, value]))),
    }));
    const body = place.querySelector(".live-body");
    body.setAttribute("role", "group");
    body.setAttribute("aria-label", "Live figure");
    body.replaceChildren(make("div", {}, stage, make("table", { className: "live-numbers" }, table)), box);

    const numbers = rows => table.replaceChildren(...rows.map(([title, value]) =>
      make("tr", {}, say(make("th", { scope: "row" }), title), say(make("td"), value))));
    new MutationObserver(refresh).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    set(Object.fromEntries(valued.map(([key, { value }]) => [key, address.get(`${name}.${key}`) ?? value])));
    return { stage, state, set, numbers, refresh, enable: (key, on) => { inputs[key].disabled = !on; } };
  }

  // ---- Plots: SVG in the coordinates of the data ----

  const WIDTH = 400;  // of the drawing; on a page it is as wide as there is room

  function plot(parent, { x: [left, right], y: [low, high], height = 150, ticks = [], xlabel = "", label }) {
    const bottom = xlabel ? 34 : ticks.length ? 20 : 4, inner = height - bottom - 4;
    const svg = draw(parent, "svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label });
    const toX = x => 6 + (WIDTH - 12) * (x - left) / (right - left), toY = y => 4 + inner * (high - y) / (high - low);
    const room = draw(svg, "svg", { x: 0, y: 4, width: WIDTH, height: inner, viewBox: `0 4 ${WIDTH} ${inner}` });
    draw(svg, "line", { class: "axis", x1: 6, x2: WIDTH - 6, y1: toY(low), y2: toY(low) });
    for (const tick of ticks) {
      const [at, text, anchor = "middle"] = Array.isArray(tick) ? tick : [tick, String(tick).replace("-", "−")];
      draw(svg, "text", { class: "tick", x: toX(at), y: toY(low) + 14, "text-anchor": anchor }).textContent = text;
    }
    if (xlabel) say(draw(svg, "text", { class: "tick", x: WIDTH / 2, y: height - 6, "text-anchor": "middle" }), xlabel);

    const path = (xs, ys) => ys.map((y, i) => `${i ? "L" : "M"}${toX(xs[i]).toFixed(1)} ${toY(y).toFixed(1)}`).join("");
    const shape = (kind, close) => colour => {
      const element = draw(room, "path", { class: `${kind} ${colour}` });
      return (xs, ys) => element.setAttribute("d", ys.length
        ? path(xs, ys) + (close ? `L${toX(xs.at(-1))} ${toY(0)}L${toX(xs[0])} ${toY(0)}Z` : "") : "");
    };
    return {
      svg,
      line: shape("line", false),
      area: shape("area", true),
      // A line across at x, or along at y.
      rule(colour) {
        const element = draw(room, "line", { class: `rule ${colour}` });
        return at => {
          const [x1, x2, y1, y2] = "x" in at ? [toX(at.x), toX(at.x), 4, 4 + inner] : [6, WIDTH - 6, toY(at.y), toY(at.y)];
          Object.entries({ x1, x2, y1, y2 }).forEach(([name, value]) => element.setAttribute(name, value));
        };
      },
      dot(colour) {
        const element = draw(room, "circle", { class: `dot ${colour}`, r: 5 });
        return (x, y) => { element.setAttribute("cx", toX(x)); element.setAttribute("cy", toY(y)); };
      },
      text(colour, x, y, words, anchor = "start") {
        const element = draw(svg, "text", { class: `note ${colour}`, "text-anchor": anchor });
        const put = (x, y, words) => {
          element.setAttribute("x", toX(x));
          element.setAttribute("y", toY(y));
          say(element, words);
        };
        put(x, y, words);
        return put;
      },
      describe: words => svg.setAttribute("aria-label", words),
      // Calls `moved(x, y)` in the data's coordinates, while a finger or the mouse is down.
      drag(moved) {
        svg.classList.add("drag");
        const tell = event => {
          const box = svg.getBoundingClientRect(), scale = WIDTH / box.width;
          const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
          moved(left + (x - 6) / (WIDTH - 12) * (right - left), high - (y - 4) / inner * (high - low));
        };
        svg.addEventListener("pointerdown", event => { svg.setPointerCapture(event.pointerId); tell(event); });
        svg.addEventListener("pointermove", event => { if (svg.hasPointerCapture(event.pointerId)) tell(event); });
      },
    };
  }

  // ---- Canvases ----

  // A canvas of width × height units, sharp on any screen; `paint(context, colour)` draws in these units.
  function canvas(parent, width, height, label) {
    const element = make("canvas", { role: "img", width: 2 * width, height: 2 * height });
    element.setAttribute("aria-label", label);
    element.style.aspectRatio = `${width} / ${height}`;
    parent.append(element);
    const context = element.getContext("2d");
    context.scale(2, 2);
    return {
      element,
      describe: words => element.setAttribute("aria-label", words),
      paint(paint) {
        const style = getComputedStyle(element);
        context.clearRect(0, 0, width, height);
        paint(context, name => style.getPropertyValue(`--${name}`));
      },
    };
  }

  // Pictures side by side, each with a title: [[title, label for who cannot see it], …].
  function gallery(parent, titles, size, channels) {
    const row = make("div", { className: "live-gallery" });
    parent.append(row);
    return titles.map(([title, label]) => {
      const cell = make("div"), shown = picture(cell, label, size, channels);
      cell.append(say(make("span"), title));
      row.append(cell);
      return shown;
    });
  }

  // A picture of values from −1 (paper) to 1 (ink), grey or coloured, with one dot a pixel; CSS makes it large.
  function picture(parent, label, size, channels = 1) {
    const element = make("canvas", { className: "live-picture", role: "img", width: size, height: size });
    element.setAttribute("aria-label", label);
    parent.append(element);
    const context = element.getContext("2d"), image = context.createImageData(size, size), n = size * size;
    return {
      element,
      describe: words => element.setAttribute("aria-label", words),
      paint(x) {
        for (let i = 0; i < n; i++) {
          for (let c = 0; c < 3; c++) {
            const value = Math.min(Math.max(x[(c % channels) * n + i], -1), 1);
            image.data[4 * i + c] = Math.round(127.5 * (channels === 1 ? 1 - value : 1 + value));
          }
          image.data[4 * i + 3] = 255;
        }
        context.putImageData(image, 0, 0);
      },
    };
  }

  // Lets a finger or the mouse pull the point that `at()` says, in shares of the element's width and height.
  function pull(element, moved, at) {
    const share = ({ clientX, clientY }) => {
      const box = element.getBoundingClientRect();
      return [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
    };
    const near = event => {
      const [x, y] = share(event), [a, b] = at(), { width, height } = element.getBoundingClientRect();
      return Math.hypot((x - a) * width, (y - b) * height) < 24;
    };
    element.addEventListener("pointerdown", event => { if (near(event)) element.setPointerCapture(event.pointerId); });
    element.addEventListener("pointermove", event => {
      if (element.hasPointerCapture(event.pointerId)) moved(...share(event));
      else element.style.cursor = near(event) ? "grab" : "";
    });
    // A page that scrolled under the finger would take the point away; elsewhere it scrolls as usual.
    element.addEventListener("touchstart", event => { if (near(event.touches[0])) event.preventDefault(); }, { passive: false });
  }

  // ---- Long work ----

  const channel = new MessageChannel(), waiting = [];
  channel.port1.onmessage = () => waiting.shift()();
  const later = () => new Promise(go => { waiting.push(go); channel.port2.postMessage(0); });
  const SLICE = 12;  // milliseconds: so short that a drag stays smooth

  // Returns a function that drives a generator to its end, in slices, and only while its place can be seen. A new call
  // stops the one before. `each` gets every record that the generator yields. Meanwhile the numbers of the figure are not
  // those of its controls: `busy` says so.
  function driver(place, busy = true) {
    let current, seen = true, wake = () => {};
    new IntersectionObserver(entries => { seen = entries.at(-1).isIntersecting; if (seen) wake(); }).observe(place);
    return async (steps, each = () => {}) => {
      const mine = current = {}, body = place.querySelector(".live-body");
      if (busy) body.setAttribute("aria-busy", true);
      for (;;) {
        const until = performance.now() + SLICE;
        do {
          const { done, value } = steps.next();
          if (done) {
            if (busy) body.removeAttribute("aria-busy");
            return true;
          }
          if (value) each(value);
        } while (performance.now() < until);
        await later();
        if (!seen) await new Promise(go => { wake = go; });
        if (current !== mine) return false;
      }
    };
  }

  // Runs `frame(share)` with shares from 0 to 1 within the given seconds; at once to 1 where nothing is to move.
  function play(seconds, frame, ended = () => {}) {
    let stopped = false;
    const start = performance.now();
    const next = now => {
      if (stopped) return;
      const share = still.matches ? 1 : Math.min((now - start) / seconds / 1000, 1);
      frame(share);
      if (share < 1) requestAnimationFrame(next); else ended();
    };
    requestAnimationFrame(next);
    return () => { stopped = true; };
  }

  return { make, say, digits, slider, choice, check, action, seed, panel, plot, canvas, gallery, picture, pull, driver, play, still };
})());
