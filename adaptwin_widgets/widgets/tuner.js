// Tuner: a form that sends what is chosen, and a picture of how far the tune is. Both are drawn from traits alone.

const LINES = {
  losses: { label: "loss", marker: "", dash: "", width: 1.5 },
  held_out: { label: "held-out loss", marker: "circle", dash: "7 4", width: 2 },
  wer: { label: "held-out WER", marker: "square", dash: "", width: 2 },
};

// What somebody types is not taken out of their hands.
function put(input, value) {
  const text = value === null || value === undefined ? "" : String(value);
  if (document.activeElement !== input && input.value !== text) input.value = text;
}

function number(input) {
  return input.value.trim() === "" || Number.isNaN(input.valueAsNumber) ? null : input.valueAsNumber;
}

// ---- the picture ------------------------------------------------------------------------------------------

function shape(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function linearTicks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(10)));
  return ticks;
}

function logTicks(low, high) {
  const all = (multiples) => {
    const ticks = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k++)
      for (const m of multiples) if (m * 10 ** k >= low && m * 10 ** k <= high) ticks.push(Number((m * 10 ** k).toPrecision(6)));
    return ticks;
  };
  return high / low < 200 ? all([1, 2, 5]) : all([1]);
}

function mark(kind, x, y, line) {
  if (kind === "circle") return shape("circle", { cx: x, cy: y, r: 3, class: `aw-fill-${line}` });
  return shape("rect", { x: x - 3, y: y - 3, width: 6, height: 6, class: `aw-fill-${line}` });
}

// One chart: curves by name, an axis title with its unit, whether that axis starts at zero, the last step of the other.
function chart(curves, names, title, fromZero, last, width) {
  const height = 190, box = { left: 52, right: width - 20, top: 10, bottom: height - 38 };
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  const points = names.flatMap((name) => curves[name] ?? []);
  const values = points.map((p) => p[1]);
  let low = Math.min(...values), high = Math.max(...values);
  const log = !fromZero && low > 0 && high / low > 10;
  if (fromZero) [low, high] = [0, Math.max(high * 1.05, 1)];
  else if (log) [low, high] = [low / 1.1, high * 1.1];
  else { const pad = (high - low || Math.abs(high) || 1) * 0.06; [low, high] = [low - pad, high + pad]; }
  const scale = log ? Math.log : (v) => v;
  const x = (step) => box.left + (step / last) * (box.right - box.left);
  const y = (v) => box.bottom - ((scale(v) - scale(low)) / (scale(high) - scale(low))) * (box.bottom - box.top);
  for (const tick of log ? logTicks(low, high) : linearTicks(low, high, 5)) {
    svg.append(shape("line", { class: "aw-grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }),
      shape("text", { x: box.left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
  }
  for (const tick of linearTicks(0, last, Math.min(5, last, Math.floor(width / 70)))) {
    if (!Number.isInteger(tick)) continue;
    svg.append(shape("text", { x: x(tick), y: box.bottom + 16, "text-anchor": "middle" }, tick.toLocaleString("en")));
  }
  svg.append(shape("line", { class: "aw-axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    shape("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, "Step"));
  const name = log ? `${title}, log scale` : title;
  const middle = (box.top + box.bottom) / 2;
  svg.append(shape("text", { transform: `translate(11 ${middle}) rotate(-90)`, "text-anchor": "middle" }, name));
  for (const name of names) {
    const curve = curves[name] ?? [];
    if (!curve.length) continue;
    const d = curve.map(([s, v], i) => `${i ? "L" : "M"}${x(s).toFixed(1)} ${y(v).toFixed(1)}`).join("");
    svg.append(shape("path", { d, class: `aw-line-${name}`, "stroke-width": LINES[name].width, "stroke-dasharray": LINES[name].dash }));
    if (curve.length === 1 || (LINES[name].marker && curve.length <= 40))
      for (const [s, v] of curve) svg.append(mark(LINES[name].marker || "circle", x(s), y(v), name));
  }
  svg.setAttribute("aria-label", `${name} by step: ` + names.filter((n) => curves[n]?.length)
    .map((n) => `${LINES[n].label} ${curves[n][0][1]} at first, ${curves[n].at(-1)[1]} at step ${curves[n].at(-1)[0]}`).join("; "));
  return svg;
}

function legend(names, curves) {
  return make("div", { class: "aw-row aw-faint", "aria-hidden": "true" }, ...names.filter((n) => curves[n]?.length).map((name) => {
    const line = LINES[name];
    const sample = shape("svg", { width: 30, height: 10 },
      shape("path", { d: "M1 5H29", class: `aw-line-${name}`, "stroke-width": line.width, "stroke-dasharray": line.dash }));
    if (line.marker) sample.append(mark(line.marker, 15, 5, name));
    return make("span", { class: "aw-tuner-key" }, sample, line.label);
  }));
}

// ---- the form ---------------------------------------------------------------------------------------------

// A share of one, as a slider and a number in percent. means: whether it means something now.
function shareOf(label, tell) {
  const slider = make("input", { type: "range", min: 0, max: 100, step: 5, "aria-label": `${label}, percent` });
  const typed = make("input", { type: "number", min: 0, max: 100, step: 1, "aria-label": `${label}, number, percent` });
  slider.addEventListener("input", () => { typed.value = slider.value; });
  slider.addEventListener("change", () => tell(slider.valueAsNumber / 100));
  typed.addEventListener("input", () => tell(number(typed) === null ? null : number(typed) / 100));
  return { nodes: [slider, make("span", { class: "aw-tuner-unit" }, typed, "%")], number: typed, show(share, means) {
    const percent = share === null ? null : Math.round(1000 * share) / 10;
    if (percent !== null) put(slider, Math.min(100, Math.max(0, percent)));
    put(typed, percent);
    slider.disabled = typed.disabled = !means;
  } };
}

function formOf(model) {
  const set = (name, value) => model.send({ do: "set", name, value });
  const speech = make("div", { class: "aw-column aw-tuner-speech", role: "group", "aria-label": "Speech to tune on" });
  const target = shareOf("Target speaker's share", (value) => set("target_weight", value));
  const word = shareOf("Transcripts' share", (value) => set("transcripts", value));
  const limit = make("input", { type: "number", min: 0, step: "any", "aria-label": "How long to tune" });
  const unit = make("select", { "aria-label": "Unit of the limit" },
    ...["minutes", "steps"].map((name) => make("option", { value: name }, name)));
  const method = make("select", { "aria-label": "Method" });
  const means = make("span", { class: "aw-faint" });
  const note = make("input", { type: "text", "aria-label": "Note on this try", placeholder: "kept with the try" });
  const mixes = make("span", { class: "aw-faint" }, "needs the target's speech and other speech");
  const written = make("span", { class: "aw-faint" });
  const plan = make("span");
  const doubts = make("div", { class: "aw-column aw-tuner-doubts", role: "status" });
  const check = make("button", { type: "button", title: "The original listens to all of it, in the background",
    onclick: once(() => model.send({ do: "check" })) }, "Check the transcripts");
  limit.addEventListener("input", () => set(unit.value, number(limit)));
  unit.addEventListener("change", () => set("unit", unit.value));
  method.addEventListener("change", () => set("method", method.value));
  note.addEventListener("change", () => set("note", note.value));

  function drawSpeech(corpora) {
    const names = JSON.stringify(corpora.map((c) => [c.name, c.minutes]));
    if (speech.dataset.names !== names) {
      speech.dataset.names = names;
      speech.replaceChildren(...corpora.map((corpus, i) => make("label", { class: "aw-tuner-corpus" },
        make("input", { type: "checkbox", onchange: () => {
          const boxes = [...speech.querySelectorAll("input")];
          set("corpora", corpora.filter((_, k) => boxes[k].checked).map((c) => c.name));
        } }),
        make("span", {}, corpus.name, ...(i === 0 ? [make("span", { class: "aw-faint" }, ", target")] : [])),
        make("span", { class: "aw-faint aw-number" }, `${corpus.minutes.toFixed(1)} min`))));
    }
    speech.querySelectorAll("input").forEach((box, i) => { box.checked = corpora[i].chosen; });
  }

  // What may be wrong with the transcripts: a line a corpus, and the worst of it on demand.
  function drawDoubts(rows) {
    const key = JSON.stringify(rows);
    if (doubts.dataset.key === key) return;
    doubts.dataset.key = key;
    doubts.replaceChildren(...rows.map(({ name, sentence, worst }) => {
      const line = `${name}: ${sentence}`;
      if (!worst.length) return make("span", { class: "aw-faint" }, line);
      return make("details", {}, make("summary", {}, line), make("ul", { class: "aw-list" },
        ...worst.map((one) => make("li", {}, make("div", {}, make("strong", {}, one.id), ` ${one.reason}`),
          make("div", { class: "aw-faint" }, `written: ${one.text}`),
          ...(one.heard ? [make("div", { class: "aw-faint" }, `heard: ${one.heard}`)] : [])))));
    }));
  }

  function draw() {
    const form = model.get("form");
    drawSpeech(form.corpora);
    drawDoubts(form.doubts);
    target.show(form.target_weight, form.mixes);
    word.show(form.transcripts, form.written);
    mixes.hidden = form.mixes;
    say(written, form.written ? "how much their word counts beside the original's" : "the speech has no transcripts");
    put(unit, form.unit);
    put(limit, form[form.unit === "steps" ? "steps" : "minutes"]);
    if (!method.options.length) method.append(...form.methods.map((m) => make("option", { value: m.name }, m.name)));
    put(method, form.method);
    say(means, form.methods.find((m) => m.name === form.method)?.means ?? "");
    put(note, form.note);
  }
  for (const input of [target.number, word.number, limit, note, unit, method]) input.addEventListener("blur", draw);

  const row = (label, ...controls) => [make("span", { class: "aw-faint" }, label), make("div", { class: "aw-row" }, ...controls)];
  const node = make("div", { class: "aw-tuner-form" }, ...row("Plan", plan), ...row("Speech", speech),
    ...row("", check, doubts),
    ...row("Target's share", ...target.nodes, mixes), ...row("Transcripts' share", ...word.nodes, written),
    ...row("Tune for", limit, unit), ...row("Method", method, means), ...row("Note", note));
  return { node, draw, plan };
}

// ---- together ---------------------------------------------------------------------------------------------

function render({ model, el }) {
  const button = (text, onclick, kind = "") => make("button", { type: "button", class: kind, onclick }, text);
  const form = formOf(model);
  const sends = (message) => once(() => model.send(message));
  const start = button("", sends({ do: "start" }), "aw-main");
  const only = button("Only compress and score", sends({ do: "start", tune: false }));
  const wrong = alertBox(), error = alertBox(), failed = alertBox();
  const queue = make("div", { class: "aw-faint" });
  let asked = "", asking = null; // pressed here, and not yet confirmed: feedback at once
  // By name: a press that a busy kernel hears late must not end the try that came after.
  const ask = (what) => {
    const { state, name } = model.get("live");
    [asked, asking] = [what, state];
    model.send({ do: what, name });
    draw();
  };
  const pause = button("Pause", () => ask("pause"));
  const resume = button("Resume", once(() => model.send({ do: "resume", name: model.get("live").name })));
  const stop = button("Stop and score", () => ask("stop"));
  const cancel = button("Cancel", () => ask("cancel"));
  stop.title = "Keeps the best state so far";
  const later = pause.title = "It can be gone on with later, also after a restart";
  const headline = make("strong"), time = make("span", { class: "aw-faint" });
  const bar = make("progress", { max: 1, "aria-label": "Progress of the tune" });
  const pictures = make("div", { class: "aw-column" });
  const body = make("tbody");
  const table = make("table", {}, make("caption", { class: "aw-hidden" }, "The tune in numbers"),
    make("thead", {}, make("tr", {}, make("th"), ...["first", "lowest", "last", "at step"]
      .map((name) => make("th", { class: "aw-number", scope: "col" }, name)))), body);
  const list = make("ul", { class: "aw-list" });
  const unfinished = make("div", { class: "aw-tuner-unfinished" }, make("h3", {}, "Unfinished tries"), list);
  const spoken = make("div", { class: "aw-hidden", role: "status", "aria-live": "polite" });
  const view = make("div", { class: "aw-column aw-tuner-live" }, make("div", { class: "aw-what" }, headline, time), bar,
    make("div", { class: "aw-row" }, pause, resume, stop, cancel), failed.node, pictures, table, unfinished);
  el.append(make("section", { class: "aw aw-tuner", "aria-label": "Tuner" }, make("div", { class: "aw-column aw-tuner-choose" },
    form.node, make("div", { class: "aw-row" }, start, only), wrong.node, queue, error.node), view, spoken));
  let told = null, drawn = "", sure = "", width = 0;

  function drawPictures(curves) {
    const has = (name) => curves[name]?.length;
    const wide = view.clientWidth;
    const losses = ["losses", "held_out"];
    if (!wide) return;
    const last = Math.max(1, ...Object.values(curves).map((curve) => curve.at(-1)?.[0] ?? 0));
    const two = has("wer") && wide >= 620;
    const charts = [];
    if (losses.some(has)) charts.push([losses, "Loss (no unit)", false, two ? Math.floor(wide * 0.6) : wide]);
    if (has("wer")) charts.push([["wer"], "Word error rate, %", true, two ? Math.floor(wide * 0.4) - 12 : wide]);
    pictures.hidden = !charts.length;
    pictures.replaceChildren(legend(Object.keys(LINES), curves),
      make("div", { class: "aw-row" }, ...charts.map(([names, title, zero, w]) => chart(curves, names, title, zero, last, w))));
  }

  function drawUnfinished(live) {
    const key = JSON.stringify([live.unfinished, sure]);
    unfinished.hidden = !live.unfinished.length;
    if (list.dataset.key === key) return;
    list.dataset.key = key;
    list.replaceChildren(...live.unfinished.map(({ name, line }) => {
      const again = button("Resume", sends({ do: "resume", name }));
      again.setAttribute("aria-label", `Resume ${name}`);
      const redraw = (value, focused) => { sure = value; drawUnfinished(model.get("live")); list.querySelector(focused)?.focus(); };
      const first = button("Discard", () => redraw(name, ".aw-sure"), "aw-discard");
      first.dataset.name = name;
      first.setAttribute("aria-label", `Discard ${name}`);
      const really = button("Really discard", once(() => { sure = ""; model.send({ do: "discard", name }); }), "aw-sure");
      const keep = button("Keep", () => redraw("", `.aw-discard[data-name=${JSON.stringify(name)}]`));
      return make("li", {}, make("div", { class: "aw-what" }, make("strong", {}, name), make("span", { class: "aw-faint" }, line)),
        make("div", { class: "aw-row" }, ...(sure === name ? [really, keep] : [again, first])));
    }));
  }

  function draw() {
    const live = model.get("live"), settings = model.get("form");
    if (asked && (live.state !== asking || Object.keys(model.get("error")).length)) asked = "";
    const pressed = asked || live.asked;
    form.draw();
    say(form.plan, live.plan);
    say(start, settings.label);
    start.disabled = !live.can.start || Boolean(settings.problem);
    only.disabled = !live.can.start;
    wrong.show({ sentence: settings.problem });
    say(queue, live.obstacle || (live.queue && `${live.queue} What you start waits its turn.`));
    queue.hidden = !queue.textContent;
    error.show(model.get("error"));
    failed.show(live.error);
    say(headline, live.headline);
    say(time, live.time);
    bar.hidden = !(live.share !== null || ["preparing", "running", "scoring"].includes(live.state));
    if (live.share === null) bar.removeAttribute("value");
    else bar.value = live.share;
    able(pause, live.can.pause && !pressed);
    able(stop, live.can.stop && !pressed);
    able(resume, live.can.resume);
    cancel.hidden = !live.can.cancel;
    able(cancel, !pressed);
    cancel.title = live.state === "scoring" ? later : "";
    say(pause, pressed === "pause" ? "pausing…" : "Pause");
    say(stop, pressed === "stop" ? "stopping…" : "Stop and score");
    say(cancel, pressed === "cancel" ? "stopping…" : "Cancel");
    table.hidden = !live.table.length;
    const key = JSON.stringify([live.curves, live.table, view.clientWidth]);
    if (key !== drawn) {
      drawn = key;
      drawPictures(live.curves);
      body.replaceChildren(...live.table.map(([label, ...cells]) => make("tr", {}, make("th", { scope: "row" }, label),
        ...cells.map((cell) => make("td", { class: "aw-number" }, cell)))));
    }
    drawUnfinished(live);
    if (told !== null && told !== live.headline) spoken.textContent = live.headline;
    told = live.headline;
  }

  const resized = new ResizeObserver(() => requestAnimationFrame(() => {
    if (view.clientWidth !== width) { width = view.clientWidth; draw(); }
  }));
  resized.observe(view);
  const events = ["change:live", "change:form", "change:error"];
  for (const event of events) model.on(event, draw);
  draw();
  return () => {
    resized.disconnect();
    for (const event of events) model.off(event, draw);
  };
}

export default { render };
