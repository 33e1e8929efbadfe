// Over the canvas a grid of focusable cells, one a layer's twin, for hands and screen readers.
// The picture and its data. `ranks` may run ahead of the kernel while somebody drags; `state` puts it right.
class Picture extends Curves {
  constructor(model, el, makeEditor = null) {
    super();
    this.model = model;
    this.editable = makeEditor !== null;
    this.editor = null; // the rank picker's hands
    this.root = make("div", { class: "aw aw-spectra" });
    this.tools = make("div", { class: "aw-row aw-tools" });
    this.paper = make("div", { "aria-hidden": "true" });
    this.surfaces = []; // a canvas a row, so that one cut costs the page one row's pixels
    this.grid = make("div", { class: "aw-cells", role: "group", "aria-label": "Spectra of every twin" });
    this.stage = make("div", { class: "aw-stage" }, this.paper, this.grid);
    this.tip = make("div", { class: "aw-tip", role: "status", hidden: true });
    this.alert = alertBox();
    this.table = make("details", { ontoggle: () => this.fillTable() }, make("summary", {}, "The same as a table"));
    this.stage.append(this.tip);
    this.root.append(this.tools, this.alert.node, this.stage, this.table);
    el.append(this.root);
    this.buildTools();
    this.readData();
    if (makeEditor) {
      this.editor = makeEditor(this);
      this.editor.state(this.model.get("state"), false);
    }
    this.stop = [
      this.on("change:values", () => this.readData()),
      this.on("change:state", () => this.readState()),
      this.on("change:singles", () => { this.singles = this.model.get("singles"); this.draw(); }),
      this.on("change:error", () => this.showError()),
    ];
    this.showError();
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(this.stage);
    this.theme = new MutationObserver(() => this.draw());
    this.theme.observe(document.body, { attributes: true });
  }

  on(event, handler) {
    this.model.on(event, handler);
    return () => this.model.off(event, handler);
  }

  destroy() {
    this.stop.forEach((off) => off());
    this.editor?.destroy();
    this.sizes.disconnect();
    this.theme.disconnect();
  }

  showError() { this.alert.show(this.model.get("error")); }

  buildTools() {
    const set = (name) => (value) => { this.options[name] = value; this.draw(); };
    this.tools.append(
      choice("Show", [["values", "singular values"], ["energy", "cumulative energy"]], "values", set("show")),
      choice("Scale", [["log", "logarithmic"], ["linear", "linear"]], "log", set("scale")),
      choice("Values", [["relative", "relative to the twin's largest"], ["absolute", "absolute"]], "relative",
        set("values")),
      (this.sourceChoice = choice("As seen by", [["speech", "this speech"], ["weights", "the weights alone"],
        ["both", "both (dashed: the weights, by their own largest)"]], "speech", set("source"))),
      (this.back = make("button", { hidden: true, onclick: () => this.zoom(null) }, "← All twins")),
      (this.headsBar = make("div", { class: "aw-row", role: "group", "aria-label": "Heads", hidden: true })),
    );
  }

  readData() {
    this.read(this.model.get("layout_of"), this.model.get("values"));
    this.sourceChoice.hidden = !this.layout.aware;
    if (this.cells?.length !== this.twins.length) this.buildCells();
    this.readState(true);
    this.resize();
  }

  readState(all = false) {
    const state = this.model.get("state");
    if (this.editor?.holding(state.seq)) return;
    const locks = state.locked.join();
    all ||= this.locks !== locks;
    this.locks = locks;
    this.locked = new Set(state.locked);
    this.take(Int32Array.from(state.ranks), all);
    this.editor?.state(state);
  }

  // Show these ranks; only what they change is drawn.
  take(ranks, all = false) {
    const old = this.ranks;
    this.ranks = ranks;
    const changed = all || !old ? this.twins : this.twins.filter((t) => this.own(t).some((r, h) => r !== old[t.unit + h]));
    changed.forEach((t) => this.label(t));
    this.draw(all ? null : changed);
  }

  own(twin) { return this.ranks.subarray(twin.unit, twin.unit + twin.heads); }

  title(twin) {
    const { title } = this.layout.rows[twin.row];
    return twin.part === "stem" ? title : `${title}, layer ${twin.layer}`;
  }

  say(twin) {
    const own = this.own(twin), low = Math.min(...own), high = Math.max(...own);
    const what = twin.kind === "feed_forward" ? "neurons" : "ranks";
    const ranks = low === high ? `${low}` : `${low} to ${high}`;
    return `${ranks} of ${twin.full} ${what} kept, ${percent(this.kept(twin))} of the energy` +
      (this.locked.has(twin.name) ? ", locked" : "");
  }

  buildCells() {
    const focused = this.focus ?? 0;
    this.grid.replaceChildren();
    this.columns = make("div", { class: "aw-heads", "aria-hidden": "true" });
    this.cells = this.twins.map((twin, i) => {
      const cell = make("div", {
        class: "aw-cell", tabindex: i === focused ? 0 : -1, role: this.editable ? "slider" : "img",
        "aria-valuemin": this.editable ? 1 : null, "aria-valuemax": this.editable ? twin.full : null,
        onfocus: () => { this.focus = i; this.roving(i); this.editor?.selected(twin); },
        onkeydown: (e) => this.key(e, twin, i),
        onpointermove: (e) => this.point(e, twin),
        onpointerleave: () => { this.tip.hidden = true; },
        onpointerdown: (e) => this.editor?.grab(e, twin),
        ondblclick: () => this.zoom(this.zoomed === i ? null : i),
      });
      this.grid.append(cell);
      return cell;
    });
  }

  roving(i) { this.cells.forEach((cell, j) => { cell.tabIndex = i === j ? 0 : -1; }); }

  label(twin) {
    const cell = this.cells[this.twins.indexOf(twin)], own = this.own(twin);
    cell.setAttribute("aria-label", this.title(twin));
    if (!this.editable) { cell.setAttribute("aria-label", `${this.title(twin)}: ${this.say(twin)}`); return; }
    cell.setAttribute("aria-valuenow", Math.round(own.reduce((a, b) => a + b, 0) / own.length));
    cell.setAttribute("aria-valuetext", this.say(twin));
  }

  key(event, twin, i) {
    this.tip.hidden = true;
    const rows = this.layout.rows, row = rows[twin.row];
    const go = (other) => { if (other) { this.cells[this.twins.indexOf(other)].focus(); event.preventDefault(); } };
    if (event.key === "Enter") { this.zoom(this.zoomed === i ? null : i); event.preventDefault(); }
    else if (event.key === "Escape" && this.zoomed != null) this.zoom(null);
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const next = rows[twin.row + (event.key === "ArrowUp" ? -1 : 1)];
      if (next) go(next.twins.find((t) => t.layer === twin.layer) || next.twins.at(-1));
      event.preventDefault();
    } else if (event.key.startsWith("Arrow") && (event.ctrlKey || event.altKey || !this.editable)) {
      go(row.twins[row.twins.indexOf(twin) + (event.key === "ArrowLeft" ? -1 : 1)]);
    } else this.editor?.key(event, twin);
  }

  zoom(i) {
    this.tip.hidden = true;
    this.zoomed = i;
    this.head = null;
    this.back.hidden = i == null;
    this.headsBar.hidden = i == null || this.twins[i].heads < 2;
    if (i != null) {
      const twin = this.twins[i];
      this.model.send({ do: "singles", name: twin.name });
      const press = (h) => () => { this.head = h; this.zoomButtons(); this.draw(); this.editor?.lookedAt(); };
      this.headsBar.replaceChildren(
        make("button", { onclick: press(null) }, "all heads"),
        ...Array.from({ length: twin.heads }, (_, h) => make("button", { onclick: press(h) }, `${h}`)),
      );
      this.zoomButtons();
    }
    this.resize();
    this.cells[i ?? this.focus ?? 0].focus({ preventScroll: true });
    this.editor?.lookedAt(); // where the focus was there already, nobody has told it
  }

  zoomButtons() {
    [...this.headsBar.children].forEach((b, i) =>
      b.setAttribute("aria-pressed", String((this.head == null ? -1 : this.head) === i - 1)));
  }

  resize() {
    this.width = this.stage.clientWidth;
    if (!this.width || !this.twins) return;
    this.height = this.zoomed != null ? ZOOM : HEADER + this.layout.rows.length * (ROW + GAP);
    this.makeSurfaces();
    this.stage.style.height = `${this.height}px`;
    this.cells.forEach((cell, i) => {
      const box = this.box(i);
      cell.hidden = !box;
      if (box) cell.style.cssText = `left:${box.x}px;top:${box.y}px;width:${box.w}px;height:${box.h}px`;
    });
    this.draw();
  }

  makeSurfaces() {
    const ratio = window.devicePixelRatio || 1, count = this.zoomed != null ? 1 : this.layout.rows.length;
    this.surfaces = Array.from({ length: count }, (_, row) => {
      const top = row && HEADER + row * (ROW + GAP) - GAP / 2;
      const bottom = row + 1 === count ? this.height : HEADER + (row + 1) * (ROW + GAP) - GAP / 2;
      const canvas = make("canvas", { width: Math.round(this.width * ratio), height: Math.round((bottom - top) * ratio),
        style: `top:${top}px;width:${this.width}px;height:${bottom - top}px` });
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, -top * ratio); // everything is drawn in the picture's coordinates
      return { canvas, context };
    });
    this.paper.replaceChildren(...this.surfaces.map((surface) => surface.canvas));
  }

  // Redraw everything, or only some twins; many requests before the next frame are one.
  draw(some = null) {
    this.dirty = some === null || this.dirty === "all" ? "all" : [...(this.dirty || []), ...some];
    this.frame ??= requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    if (this.root.isConnected && this.width) {
      this.paint();
      if (!this.told) { this.told = true; this.model.send({ do: "shown" }); }
    }
    this.dirty = null;
    this.root.dataset.drawn = this.editor?.edits ?? 0;
  }

  paint() {
    const all = this.dirty === "all";
    if (all || !this.ink) { // asking for styles lays out the whole page: not for every drag
      const style = getComputedStyle(this.root), read = (name) => style.getPropertyValue(name).trim();
      this.ink = read("--aw-ink"); this.faint = read("--aw-faint"); this.line = read("--aw-line");
      this.font = `11px ${style.fontFamily}`;
      this.dark = document.body.dataset.jpThemeLight === "false";
    }
    if (all) this.surfaces.forEach(({ context }) => {
      context.clearRect(0, 0, this.width, this.height);
      context.font = this.font;
      this.axes(context);
    });
    for (const twin of all ? this.twins : new Set(this.dirty)) {
      const box = this.box(this.twins.indexOf(twin));
      if (box) this.panel(this.surfaces[this.zoomed != null ? 0 : twin.row].context, twin, box);
    }
    if (this.table.open) this.fillTable();
  }

  axes(context) {
    context.fillStyle = this.ink;
    context.textBaseline = "middle";
    if (this.zoomed != null) {
      context.textAlign = "left";
      const twin = this.twins[this.zoomed];
      context.font = context.font.replace("11px", "bold 13px");
      context.fillText(this.title(twin) + (this.head == null ? "" : `, head ${this.head}`), 64, 9);
      context.font = context.font.replace("bold 13px", "11px");
      return;
    }
    context.textAlign = "center";
    context.fillStyle = this.faint;
    const w = this.column, wide = w > 44;
    for (let layer = 0; layer < this.layers; layer++) {
      context.fillText(wide ? `layer ${layer}` : `${layer}`, GUTTER + layer * (w + GAP) + w / 2, 10);
    }
    this.layout.rows.forEach((row, r) => {
      const y = HEADER + r * (ROW + GAP), [part, kind] = row.title.split(": ");
      context.textAlign = "left";
      context.fillStyle = this.ink;
      context.fillText(part, 0, y + ROW / 2 - 8);
      context.fillStyle = this.faint;
      context.fillText(kind, 0, y + ROW / 2 + 8);
      context.textAlign = "right";
      const [top, bottom] = this.ends(row.twins[0]);
      context.fillText(top, GUTTER - 6, y + 6);
      context.fillText(bottom, GUTTER - 6, y + ROW - 6);
    });
  }

  at(event, twin) {
    const bounds = this.stage.getBoundingClientRect(), box = this.box(this.twins.indexOf(twin));
    return this.nearest(twin, box, event.clientX - bounds.left, event.clientY - bounds.top);
  }

  point(event, twin) {
    const { rank, head } = this.at(event, twin), drawn = this.layout.aware && this.options.source !== "weights" ? 0 : this.half;
    const at = drawn + twin.offset + head * twin.points + this.sample(twin, rank - 1), value = this.data[at];
    const who = twin.kind === "feed_forward" ? "" : `, head ${head}`;
    const rows = [
      [this.title(twin) + who], [`${twin.kind === "feed_forward" ? "neuron" : "index"} ${rank} of ${twin.full}`,
        `value ${value.toPrecision(3)}`],
      [`keeping ${rank}: ${percent(this.cumulative[at])} of ${twin.kind === "feed_forward" ? "the" : "this head's"} energy,`,
        `${short((twin.full - rank) * twin.price)} parameters saved`],
      [this.say(twin)],
    ];
    this.tip.replaceChildren(...rows.map((r, i) => make(i ? "div" : "strong", {}, r.join("  "))));
    const bounds = this.stage.getBoundingClientRect();
    const x = event.clientX - bounds.left, y = event.clientY - bounds.top;
    this.tip.hidden = false;
    this.tip.style.left = `${Math.min(x + 14, this.width - this.tip.offsetWidth - 4)}px`;
    this.tip.style.top = `${y + 18 + this.tip.offsetHeight > this.height ? y - this.tip.offsetHeight - 10 : y + 18}px`;
  }

  fillTable() {
    if (!this.table.open) return;
    const cell = (text, number) => make("td", { class: number ? "aw-number" : null }, text);
    const head = make("tr", {}, ...["Twin", "Layer", "Ranks kept (a head each)", "Of", "Energy kept", "Parameters saved"]
      .map((t) => make("th", { scope: "col" }, t)));
    const rows = this.twins.map((t) => {
      const own = this.own(t), saved = own.reduce((sum, r) => sum + (t.full - r) * t.price, 0);
      return make("tr", {}, cell(this.layout.rows[t.row].title), cell(t.part === "stem" ? "–" : t.layer, true),
        cell([...own].join(" ")), cell(t.full, true), cell(percent(this.kept(t)), true), cell(short(saved), true));
    });
    this.table.querySelector("table")?.remove();
    this.table.append(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  }
}

function renderSpectra({ model, el }) {
  const picture = new Picture(model, el);
  return () => picture.destroy();
}
