// Hands on the spectra. What moves is drawn and reckoned at once by the page itself (ahead.js); letting go commits.
// The kernel's answer, `state`, is the truth.
class Editor {
  constructor(picture) {
    this.picture = picture;
    this.model = picture.model;
    this.id = Math.random().toString(36).slice(2, 8);
    this.count = this.edits = 0; // requests of this view; plans it has shown
    this.scope = "layer";
    this.side = "encoder";
    this.of = "parameters"; // or "multiply-adds": what a budget counts
    this.ahead = new Ahead(picture);
    const read = () => this.ahead.read(this.model.get("ahead"), this.model.get("queues"));
    read();
    this.asked = asking(this.model, ({ file, text }) => file !== undefined && download(file, [text], "application/json"));
    this.build();
    this.stop = [
      picture.on("change:queues", read),
      picture.on("change:ahead", read),
      picture.on("change:error", () => { if (this.model.get("error").sentence) this.settle(); }),
      picture.on("change:sensitivity", () => this.fillMap()),
      () => this.asked.off(),
    ];
  }

  destroy() { this.stop.forEach((off) => off()); clearTimeout(this.idle); }

  // -- requests ---------------------------------------------------------------------------------------------

  ask(message) {
    this.count += 1;
    this.waiting = `${this.id}:${this.count}`;
    this.picture.root.dataset.busy = "1";
    this.model.send({ ...message, seq: this.waiting });
  }

  // Show what an edit would do to the plan.
  show(edit) {
    const plan = this.ahead.edited(edit, this.plan, this.picture.locked);
    if (!plan) return null; // locked: the kernel will say so
    this.edits += 1;
    this.picture.take(plan.ranks);
    this.fillNumbers(this.ahead.numbers(plan), edit.budget ? null : this.side);
    this.fillTwin();
    return plan;
  }

  commit(edit) {
    clearTimeout(this.idle);
    this.plan = this.show(edit) ?? this.plan;
    this.ask({ do: "commit", edit });
  }

  act(what, more = {}) { this.flush(); this.ask({ do: "act", what, ...more }); }

  flush() { if (this.pending) { const edit = this.pending; this.pending = null; this.commit(edit); } }

  settle() {
    this.waiting = this.pending = null;
    this.picture.readState(true);
  }

  // Whether the page is ahead of this answer: a later one comes.
  holding(seq) {
    if (seq === this.waiting) this.waiting = null;
    return Boolean(this.waiting);
  }

  // A field that was emptied asks for nothing, and shows again what is.
  typedIn(field, edit) {
    if (!Number.isNaN(field.valueAsNumber)) { this.commit(edit(field.valueAsNumber)); return; }
    this.fill(this.model.get("state"));
    this.fillTwin(true);
  }

  // What the kernel says.
  state(state) {
    this.plan = { ranks: this.picture.ranks, cut: new Set(state.cut) };
    delete this.picture.root.dataset.busy;
    this.edits += 1;
    this.fill(state);
    if (this.pending) this.show(this.pending);
  }

  // -- on the spectra ---------------------------------------------------------------------------------------

  pattern(twin) { return this.scope === "row" ? `${twin.part}.*.${twin.kind}` : twin.name; }

  grab(event, twin) {
    if (event.button !== 0) return;
    this.flush();
    const cell = event.currentTarget, start = event.clientX, found = this.picture.at(event, twin);
    const head = this.scope === "head" ? this.picture.head ?? found.head : this.picture.head;
    const over = new AbortController(), { signal } = over;
    let edit = null;
    cell.setPointerCapture(event.pointerId);
    const move = (e) => {
      if (!edit && Math.abs(e.clientX - start) < 3) return;
      edit = { twins: this.pattern(twin), rank: this.picture.at(e, twin).rank };
      if (head != null && twin.heads > 1) edit.head = head;
      this.show(edit);
    };
    const end = (e) => {
      over.abort();
      if (edit && e.type === "pointerup") this.commit(edit);
      else if (edit) this.settle(); // taken back: the system wanted the pointer for something else
    };
    cell.addEventListener("pointermove", move, { signal });
    for (const name of ["pointerup", "pointercancel"]) cell.addEventListener(name, end, { signal });
  }

  key(event, twin) {
    const step = twin.kind === "feed_forward" ? Math.max(1, twin.full >> 7) : 1;
    const by = { ArrowLeft: -1, ArrowRight: 1, PageDown: -8, PageUp: 8 }[event.key];
    if (by) this.shift(twin, by * step * (event.shiftKey ? 8 : 1));
    else if (event.key === "Home" || event.key === "End") {
      this.flush();
      const edit = { twins: this.pattern(twin), rank: event.key === "Home" ? 1 : twin.full };
      this.commit(edit);
    } else if (event.key === "l" || event.key === "L") this.toggleLock(twin);
    else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") this.act(event.shiftKey ? "redo" : "undo");
    else return;
    event.preventDefault();
  }

  // Presses that follow each other are one change of the plan: it is committed when they pause.
  shift(twin, by) {
    const twins = this.pattern(twin), head = this.picture.head;
    if (this.pending && (this.pending.twins !== twins || this.pending.head !== head)) this.flush();
    this.pending = { twins, head, by: (this.pending?.by ?? 0) + by };
    this.picture.root.dataset.busy = "1";
    this.show(this.pending);
    clearTimeout(this.idle);
    this.idle = setTimeout(() => this.flush(), 400);
  }

  toggleLock(twin) { this.act("lock", { twins: this.pattern(twin), on: !this.picture.locked.has(twin.name) }); }

  selected(twin) {
    if (this.pending && this.pending.twins !== this.pattern(twin)) this.flush();
    this.twin = twin;
    this.fillTwin();
  }

  // Another head, or opened or closed.
  lookedAt() { this.fillTwin(); }

  // -- controls ---------------------------------------------------------------------------------------------

  build() {
    const button = (text, act, more = {}) => make("button", { onclick: act, ...more }, text);
    const slide = (commit) => () => {
      const edit = { ...this.budgetOf(), fraction: Number(this.slider.value) / 100 };
      this.typed.value = this.slider.value;
      commit ? this.commit(edit) : this.show(edit);
    };
    this.slider = make("input", { type: "range", min: 0, max: 90, step: 0.5, value: 0, class: "aw-budget",
      "aria-label": "Share to remove, percent", oninput: slide(false), onchange: slide(true) });
    this.typed = make("input", { type: "number", min: 0, max: 99, step: 0.1, value: 0, style: "width: 5.5em",
      "aria-label": "Share to remove, percent",
      onchange: () => this.typedIn(this.typed, (n) => ({ ...this.budgetOf(), fraction: n / 100 })) });
    this.budget = make("div", { class: "aw-row" },
      choice("Remove from the", [["encoder", "encoder"], ["decoder", "decoder"], ["model", "whole model"]], "encoder",
        (side) => { this.side = side; this.fill(this.model.get("state")); }),
      choice("of its", [["parameters", "parameters (size)"], ["multiply-adds", "multiply-adds (speed)"]], "parameters",
        (of) => { this.of = of; this.fill(this.model.get("state")); }),
      this.slider, this.typed, make("span", {}, "%"), (this.note = make("span", { class: "aw-faint aw-line" })));
    this.rank = make("input", { type: "number", min: 1, style: "width: 5.5em", "aria-label": "Rank of the chosen twin",
      onchange: () => { this.flush(); this.typedIn(this.rank, (rank) =>
        ({ twins: this.pattern(this.twin), head: this.picture.head, rank })); } });
    // What is chosen has a line and its buttons a width: nothing below may move while somebody clicks twice.
    this.rankName = make("span", { class: "aw-line" }, "Choose a spectrum");
    this.rankUnit = make("span", { class: "aw-rank-unit" }, "rank");
    this.lockButton = button("Lock", () => this.twin && this.toggleLock(this.twin),
      { "aria-pressed": "false", class: "aw-steady" });
    this.zoomButton = button("Open", () => this.twin && this.picture.zoom(this.picture.zoomed == null
      ? this.picture.twins.indexOf(this.twin) : null), { class: "aw-steady" });
    this.file = make("input", { type: "file", accept: ".json,application/json", hidden: true, onchange: () => this.read() });
    this.undo = button("Undo", () => this.act("undo"));
    this.redo = button("Redo", () => this.act("redo"));
    this.measure = button("Measure damage…", () => this.model.send({ do: "measure" }));
    this.numbers = make("table", { class: "aw-numbers" });
    this.meaning = make("p", { class: "aw-faint aw-meaning" }, // "What a nat is worth" in benchmarks/README.md
      "Damage as word errors, before tuning (tiny.en): 0.003 none that can be measured, 0.02 a third of a point more, ",
      "0.09 one to five points, 0.3 eight to twenty.");
    this.map = make("details", {}, make("summary", {}, "Sensitivity map: what cutting each twin does"));
    this.bar = make("div", { class: "aw-row" },
      choice("A drag moves", [["head", "one head"], ["layer", "all heads of the layer"], ["row", "the whole row"]],
        "layer", (scope) => { this.flush(); this.scope = scope; this.fillTwin(); }),
      this.rankName, this.rankUnit, this.rank, this.lockButton, this.zoomButton,
      make("span", { class: "aw-row aw-plan", role: "group", "aria-label": "Plan" }, this.undo, this.redo,
        button("Reset", () => this.act("reset")), button("Save plan", () => this.asked.ask({ do: "save" })),
        button("Load plan", () => this.file.click()), this.file));
    const root = this.picture.root;
    root.prepend(make("div", { class: "aw-picker" },
      make("div", { class: "aw-column" }, this.budget, this.bar), make("div", {}, this.numbers, this.meaning, this.measure)));
    root.append(this.map);
    this.fillMap();
  }

  fill(state) {
    this.limits = state.limits;
    const [how] = state.method.split(", to remove "); // how much is in the field above
    const what = `at most ${this.most()} % · ranks: ${how}`;
    say(this.note, what);
    this.note.title = this.of === "parameters" ? what
      : `${what}; multiply-adds for 30 s of audio and ${this.model.get("ahead").tokens} tokens of text`;
    able(this.undo, state.undo);
    able(this.redo, state.redo);
    this.measure.hidden = !state.can_measure || (state.measured.encoder && state.measured.decoder);
    this.fillNumbers(state.numbers, this.side);
    this.fillTwin();
  }

  most() { return (Math.floor(this.limits[this.of][this.side] * 1000) / 10).toFixed(1); }

  budgetOf() { return { budget: this.side, of: this.of }; }

  // The table, and the budget's controls unless it is them that move.
  fillNumbers(n, side) {
    if (side) {
      const [before, after] = (this.of === "parameters" ? n : n[this.of])[side], removed = 100 * (1 - after / before);
      if (this.slider.max !== this.most()) this.slider.max = this.most();
      this.slider.value = removed;
      this.typed.value = removed.toFixed(1);
    }
    const change = ([a, b]) => (a === b ? "same" : `−${(100 * (1 - b / a)).toFixed(1)} %`);
    const pair = (name, key, text) => [name, text(n[key][0]), text(n[key][1]), change(n[key])];
    const million = (v) => `${(v / 1e6).toFixed(2)} M`;
    this.meaning.hidden = !n.damage;
    const rows = [
      pair("Encoder parameters", "encoder", million), pair("Decoder parameters", "decoder", million),
      pair("Model parameters", "model", million), pair("Size in float16", "bytes", (v) => `${(v / 1e6).toFixed(1)} MB`),
      pair("Multiply-adds, 30 s of audio", "audio", (v) => `${(v / 1e9).toFixed(2)} G`),
      pair("Multiply-adds, one token", "token", (v) => `${(v / 1e6).toFixed(1)} M`),
      ["Energy kept, mean over twins", "100 %", percent(n.energy, 2), ""],
      ["Predicted damage, nats a token", "0", n.damage == null ? "not measured" : n.damage.toPrecision(2), ""],
    ];
    if (this.cellsOf) {
      rows.forEach((r, i) => r.forEach((t, j) => say(this.cellsOf[i][j], t)));
      return;
    }
    this.cellsOf = rows.map((r) => r.map((t, i) => make(i ? "td" : "th", i ? { class: "aw-number" } : { scope: "row" }, t)));
    this.numbers.append(
      make("thead", {}, make("tr", {}, ...["", "original", "this plan", "change"].map((t) =>
        make("th", { scope: "col", class: t ? "aw-number" : null }, t)))),
      make("tbody", {}, ...this.cellsOf.map((cells) => make("tr", {}, ...cells))));
  }

  fillTwin(all = false) {
    const twin = this.twin, picture = this.picture;
    [this.rank, this.lockButton, this.zoomButton].forEach((control) => { control.disabled = !twin; });
    if (!twin) return;
    const own = [...picture.own(twin)], head = picture.head;
    const where = this.scope === "row" ? picture.layout.rows[twin.row].title : picture.title(twin);
    say(this.rankName, `${where}${head == null ? "" : `, head ${head}`}`);
    say(this.rankUnit, twin.kind === "feed_forward" ? "neurons" : "rank");
    if (Number(this.rank.max) !== twin.full) this.rank.max = twin.full;
    if (all || document.activeElement !== this.rank) { // what somebody writes in is left alone
      this.rank.value = head == null ? Math.round(own.reduce((a, b) => a + b, 0) / own.length) : own[head];
    }
    const locked = picture.locked.has(twin.name);
    this.lockButton.setAttribute("aria-pressed", String(locked));
    say(this.lockButton, locked ? "Unlock" : "Lock");
    say(this.zoomButton, picture.zoomed == null ? "Open" : "Close");
  }

  fillMap() {
    const { shares, rows } = this.model.get("sensitivity");
    this.map.hidden = !rows;
    this.map.querySelector("table")?.remove();
    if (!rows) return;
    const all = Object.values(rows).flat().filter((v) => v > 0).map(Math.log10), low = Math.min(...all), high = Math.max(...all);
    const cell = (v) => {
      const t = (Math.log10(Math.max(v, 1e-12)) - low) / (high - low || 1);
      return make("td", { class: "aw-number", style: `background: rgb(230 159 0 / ${Math.round(45 * Math.max(0, t))}%)` },
        v < 0.001 ? v.toExponential(0) : v.toPrecision(2));
    };
    this.map.append(make("table", {},
      make("caption", {}, "KL divergence of the decoder's output, nats a token, when this share of a twin's components is cut alone"),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Twin"), ...shares.map((s) =>
        make("th", { scope: "col", class: "aw-number" }, `${Math.round(100 * s)} %`)))),
      make("tbody", {}, ...Object.entries(rows).map(([name, values]) => {
        const twin = this.picture.twins.find((t) => t.name === name);
        return make("tr", {}, make("th", { scope: "row" }, this.picture.title(twin)), ...values.map(cell));
      }))));
  }

  read() {
    const [file] = this.file.files;
    if (file) file.text().then((text) => this.model.send({ do: "load", text, name: file.name }));
    this.file.value = "";
  }
}

export default {
  render({ model, el }) {
    const picture = new Picture(model, el, (p) => new Editor(p));
    return () => picture.destroy();
  },
};
