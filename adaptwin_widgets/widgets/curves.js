// The numbers of every spectrum and how they are drawn. Knows a canvas, no page.
const GUTTER = 128, HEADER = 22, GAP = 6, ROW = 66, ZOOM = 380; // CSS pixels
const BRIGHTER = { "#0072B2": "#5081f0" }; // on a dark page

class Curves {
  constructor() {
    this.options = { scale: "log", values: "relative", show: "values", source: "speech" };
    this.zoomed = null; // index of the twin that fills the picture
    this.head = null; // in the zoom: one head, or all
    this.singles = {}; // spectra of the single matrices of the twin that was opened last
  }

  read(layout, view) {
    const all = new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
    this.half = all.length / 2;
    this.data = all;
    this.layout = layout;
    // The same twins stay the same objects: a hand may hold one, a cell or the editor know one, while values arrive.
    const known = new Map((this.twins ?? []).map((twin) => [twin.name, twin]));
    this.twins = layout.twins.map((twin) => Object.assign(known.get(twin.name) ?? {}, twin));
    this.layers = Math.max(...this.twins.map((t) => t.layer)) + 1;
    this.cumulative = new Float32Array(all.length);
    for (const twin of this.twins) {
      for (const start of [twin.offset, this.half + twin.offset]) {
        let largest = 0;
        for (let h = 0; h < twin.heads; h++) {
          const from = start + h * twin.points;
          largest = Math.max(largest, all[from]);
          let sum = 0, last = -1;
          for (let k = 0; k < twin.points; k++) {
            const at = this.index(twin, k);
            sum += all[from + k] ** 2 * (at - last);
            last = at;
            this.cumulative[from + k] = sum;
          }
          for (let k = 0; k < twin.points; k++) this.cumulative[from + k] /= sum || 1;
        }
        if (start < this.half) twin.largest = largest;
        else twin.largestWeight = largest;
      }
    }
    for (const row of layout.rows) {
      const own = this.twins.filter((t) => t.part === row.part && t.kind === row.kind);
      const most = Math.max(...own.map((t) => t.largest)), weight = Math.max(...own.map((t) => t.largestWeight));
      own.forEach((t) => { t.rowLargest = most; t.rowLargestWeight = weight; t.row = layout.rows.indexOf(row); });
      row.twins = own;
    }
  }

  // The rank (from 0) that sample k of a curve stands for.
  index(twin, k) { return Math.round((k * (twin.full - 1)) / Math.max(twin.points - 1, 1)); }
  sample(twin, rank) { return Math.round((rank * (twin.points - 1)) / Math.max(twin.full - 1, 1)); }

  kept(twin) { // share of the twin's energy that its ranks keep
    let kept = 0, whole = 0;
    for (let h = 0; h < twin.heads; h++) {
      const from = twin.offset + h * twin.points;
      let energy = 0;
      for (let k = 0, last = -1; k < twin.points; k++) {
        const at = this.index(twin, k);
        energy += this.data[from + k] ** 2 * (at - last);
        last = at;
      }
      whole += energy;
      const rank = this.ranks[twin.unit + h];
      if (rank > 0) kept += energy * this.cumulative[from + this.sample(twin, rank - 1)];
    }
    return whole ? kept / whole : 1;
  }

  get column() { return (this.width - GUTTER - GAP * this.layers) / this.layers; } // how wide a layer is

  // Where a twin is drawn, in CSS pixels. The stem is no layer's: it has its row to itself.
  box(i) {
    const twin = this.twins[i];
    if (this.zoomed != null) {
      return i === this.zoomed ? { x: 64, y: HEADER, w: this.width - 84, h: ZOOM - HEADER - 34 } : null;
    }
    const step = this.column + GAP, w = twin.part === "stem" ? step * this.layers - GAP : this.column;
    return { x: GUTTER + twin.layer * step, y: HEADER + twin.row * (ROW + GAP), w, h: ROW };
  }

  get depth() { return this.options.values === "absolute" ? 4 : 3; }

  unit(twin, weights) {
    if (this.options.values === "absolute") return (weights ? twin.rowLargestWeight : twin.rowLargest) || 1;
    return (weights ? twin.largestWeight : twin.largest) || 1;
  }

  ends(twin) { // labels of the y axis: top and bottom
    if (this.options.show === "energy") return ["100 %", "0"];
    const top = this.options.values === "absolute" ? this.unit(twin, this.options.source === "weights") : 1;
    const text = (v) => String(Number(v.toPrecision(2)));
    return [text(top), this.options.scale === "log" ? text(top / 10 ** this.depth) : "0"];
  }

  height01(twin, at, weights) { // 0 (bottom) to 1 (top)
    if (this.options.show === "energy") return this.cumulative[at];
    const value = this.data[at] / this.unit(twin, weights);
    if (this.options.scale === "linear") return value;
    return Math.max(0, 1 + Math.log10(Math.max(value, 1e-12)) / this.depth);
  }

  panel(context, twin, box) {
    const zoomed = this.zoomed != null;
    const [left, below] = zoomed ? [62, 36] : [3, 3]; // its labels, or the marks on its edge
    context.clearRect(box.x - left, box.y - 3, box.w + left + 3, box.h + below + 3);
    context.strokeStyle = this.line;
    context.lineWidth = 1;
    context.strokeRect(box.x + 0.5, box.y + 0.5, box.w - 1, box.h - 1);
    if (zoomed) this.zoomAxes(context, twin, box);
    const { source } = this.options, aware = this.layout.aware;
    if (source === "both" && aware) for (let h = 0; h < twin.heads; h++) if (this.shows(h)) this.plain(context, twin, box, h);
    const weights = source === "weights" || !aware;
    for (let h = 0; h < twin.heads; h++) if (this.shows(h)) this.curve(context, twin, box, h, weights);
    if (zoomed) this.matrices(context, twin, box);
    if (this.locked.has(twin.name)) {
      context.fillStyle = this.ink;
      context.textAlign = "right";
      context.fillText("locked", box.x + box.w - 4, box.y + 9);
    }
  }

  shows(head) { return this.zoomed == null || this.head == null || this.head === head; }

  zoomAxes(context, twin, box) {
    context.fillStyle = this.faint;
    context.textAlign = "right";
    context.strokeStyle = this.line;
    const log = this.options.scale === "log" && this.options.show !== "energy";
    const steps = log ? this.depth : 4, [top] = this.ends(twin);
    for (let s = 0; s <= steps; s++) {
      const y = box.y + (box.h * s) / steps;
      const value = log ? Number(top) / 10 ** s : (Number.parseFloat(top) * (steps - s)) / steps;
      context.fillText(this.options.show === "energy" ? `${value} %` : String(Number(value.toPrecision(2))), box.x - 8, y);
      context.globalAlpha = 0.5;
      context.strokeRect(box.x, y, box.w, 0);
      context.globalAlpha = 1;
    }
    context.textAlign = "center";
    for (let s = 0; s <= 8; s++) {
      context.fillText(Math.round((twin.full * s) / 8), box.x + (box.w * s) / 8, box.y + box.h + 12);
    }
    context.fillText(twin.kind === "feed_forward" ? "neurons kept" : "rank (directions kept)", box.x + box.w / 2,
      box.y + box.h + 27);
  }

  xy(twin, box, h, k, weights) {
    const at = (weights ? this.half : 0) + twin.offset + h * twin.points + k;
    const inner = box.h - 6;
    return [box.x + ((this.index(twin, k) + 0.5) / twin.full) * box.w,
      box.y + 3 + inner * (1 - Math.min(1, this.height01(twin, at, weights)))];
  }

  plain(context, twin, box, h) {
    context.strokeStyle = this.faint;
    context.globalAlpha = 0.45;
    context.lineWidth = 1;
    context.setLineDash([2, 2]);
    context.beginPath();
    for (let k = 0; k < twin.points; k++) context.lineTo(...this.xy(twin, box, h, k, true));
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  curve(context, twin, box, h, weights) {
    const colours = this.layout.colours, rank = this.ranks[twin.unit + h];
    const cut = rank >= twin.full ? twin.points : this.sample(twin, rank);
    const strong = this.zoomed != null ? 2.2 : 1.3;
    const colour = colours[h % colours.length];
    context.strokeStyle = context.fillStyle = (this.dark && BRIGHTER[colour]) || colour;
    const stroke = (from, to, width, alpha) => {
      if (from >= to) return;
      context.globalAlpha = alpha;
      context.lineWidth = width;
      context.beginPath();
      for (let k = from; k < to; k++) context.lineTo(...this.xy(twin, box, h, k, weights));
      context.stroke();
    };
    stroke(Math.max(0, cut - 1), twin.points, strong * 0.6, this.dark ? 0.45 : 0.3);
    stroke(0, cut, strong, 0.95);
    context.globalAlpha = 1;
    if (rank && rank < twin.full) { // a head that is gone has no end
      const [x, y] = this.xy(twin, box, h, Math.max(0, cut - 1), weights);
      context.beginPath();
      context.arc(x, y, this.zoomed != null ? 4 : 2, 0, 7);
      context.fill();
    }
  }

  matrices(context, twin, box) { // the two matrices alone, beside their product: one head's
    const singles = this.singles;
    if (singles?.name !== twin.name || this.options.show === "energy") return;
    const head = this.head ?? 0, log = this.options.scale === "log";
    singles.rows.forEach((heads, m) => {
      const row = heads[head];
      context.strokeStyle = this.ink;
      context.lineWidth = 1.4;
      context.setLineDash(m ? [2, 3] : [8, 4]);
      context.beginPath();
      row.forEach((v, k) => {
        const up = log ? Math.max(0, 1 + Math.log10(Math.max(v, 1e-12)) / this.depth) : v;
        context.lineTo(box.x + ((k + 0.5) / row.length) * box.w, box.y + 3 + (box.h - 6) * (1 - up));
      });
      context.stroke();
      context.beginPath();
      const y = box.y + box.h - 34 + 16 * m;
      context.moveTo(box.x + 12, y);
      context.lineTo(box.x + 48, y);
      context.stroke();
      context.setLineDash([]);
      context.fillStyle = this.ink;
      context.textAlign = "left";
      const whose = twin.heads > 1 ? `, head ${head}` : "";
      context.fillText(`${singles.labels[m]} alone${whose}, relative to its largest`, box.x + 56, y);
    });
  }

  nearest(twin, box, x, y) { // {rank, head} under the pointer
    const rank = Math.min(twin.full, Math.max(1, Math.ceil(((x - box.x) / box.w) * twin.full)));
    let head = 0, best = Infinity;
    const weights = this.options.source === "weights" || !this.layout.aware, k = this.sample(twin, rank - 1);
    for (let h = 0; h < twin.heads; h++) {
      if (!this.shows(h)) continue;
      const distance = Math.abs(this.xy(twin, box, h, k, weights)[1] - y);
      if (distance < best) [best, head] = [distance, h];
    }
    return { rank, head };
  }
}
