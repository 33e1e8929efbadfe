// What the kernel would say of a plan, worked out in the page, so that a moving hand waits for nobody: the edits of
// planner.py, the costs of cost.py, the walk along the queue of allocate.py, the damage of sensitivity.py. The
// kernel's answer to a commit is the truth; a test holds the two against each other.
// A plan: `ranks` of every head, and `cut`, the numbers of the twins that are compressed (at full rank, too).
class Ahead {
  constructor(picture) { this.picture = picture; }

  // The original's multiply-adds; what budgets count: of a part, and of a rank of each twin; the parameters of a
  // value's bias; damage by twin, and of all cuts of a side by their sum; and the queues.
  read({ before, counts, bias, curves }, view) {
    Object.assign(this, { before, counts, bias, curves });
    const all = new Uint16Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
    this.queues = {};
    let from = 0;
    for (const of in counts) {
      this.queues[of] = {};
      for (const side of Object.keys(counts[of].whole)) {
        const length = this.of(side).reduce((sum, t) => sum + t.heads * (t.full - 1), 0);
        this.queues[of][side] = all.subarray(from, (from += length));
      }
    }
  }

  of(side) { return this.picture.twins.filter((t) => side === "model" || side === this.side(t)); }

  side(twin) { return ["stem", "encoder"].includes(twin.part) ? "encoder" : "decoder"; }

  // The plan after an edit; null where everything it names is locked.
  edited(edit, plan, locked) {
    const own = (edit.budget ? this.of(edit.budget) : this.named(edit.twins)).filter((t) => !locked.has(t.name));
    const next = { ranks: Int32Array.from(plan.ranks), cut: new Set(plan.cut) };
    if (edit.budget) this.spend(edit, own, next, locked);
    else for (const twin of own) this.change(edit, twin, next);
    return own.length ? next : null;
  }

  named(pattern) {
    if (!pattern.includes("*")) return this.picture.twins.filter((t) => t.name === pattern);
    const [part, , kind] = pattern.split(".");
    return this.picture.twins.filter((t) => t.part === part && t.kind === kind);
  }

  change({ head, rank, by }, twin, { ranks, cut }) {
    let whole = true;
    for (let h = 0, u = twin.unit; h < twin.heads; h++, u++) {
      if ((head == null || head === h) && (rank != null || ranks[u])) // a head that is gone is not shifted
        ranks[u] = Math.min(twin.full, Math.max(1, rank ?? ranks[u] + by));
      whole &&= ranks[u] === twin.full;
    }
    cut[whole ? "delete" : "add"](this.picture.twins.indexOf(twin)); // what keeps everything is left as it is
  }

  spend({ budget, of, fraction }, own, next, locked) {
    const { twins } = this.picture, { whole, each } = this.counts[of], price = new Map();
    for (const twin of own) {
      const number = twins.indexOf(twin);
      for (let u = twin.unit; u < twin.unit + twin.heads; u++) { next.ranks[u] = twin.full; price.set(u, each[number]); }
      next.cut.add(number);
    }
    if (!fraction && ![...next.cut].some((i) => locked.has(twins[i].name))) {
      own.forEach((twin) => next.cut.delete(twins.indexOf(twin)));
      return;
    }
    // An attention that is compressed at all folds its value bias away, whatever its ranks.
    let wanted = fraction * whole[budget] - (whole[budget] - this.cost(next)[of][budget]);
    for (const unit of this.queues[of][budget]) {
      if (wanted <= 0.5) break; // what is counted is whole, a fraction of millions is not
      if (!price.has(unit)) continue;
      next.ranks[unit] -= 1;
      wanted -= price.get(unit);
    }
  }

  // What a plan costs: by what is counted and side; multiply-adds of 30 s of audio and of one token.
  cost({ ranks, cut }) {
    const after = { ...this.before }, attentions = new Set();
    for (const of in this.counts) after[of] = { ...this.counts[of].whole };
    for (const i of cut) {
      const twin = this.picture.twins[i], side = this.side(twin);
      let gone = 0;
      for (let u = twin.unit; u < twin.unit + twin.heads; u++) gone += twin.full - ranks[u];
      for (const of in this.counts) {
        for (const part of [side, "model"]) after[of][part] -= gone * this.counts[of].each[i];
      }
      if (twin.kind !== "feed_forward" && !attentions.has(`${twin.part}.${twin.layer}`)) {
        attentions.add(`${twin.part}.${twin.layer}`);
        for (const part of [side, "model"]) after.parameters[part] -= this.bias;
      }
      after.audio -= gone * twin.audio;
      after.token -= gone * twin.token;
    }
    return after;
  }

  // As `Planner.numbers`: [before, after] of each cost, energy kept, predicted damage.
  numbers(plan) {
    const after = this.cost(plan), { twins } = this.picture;
    let lost = 0, known = true;
    const alone = { encoder: 0, decoder: 0 };
    for (const i of plan.cut) {
      const tail = this.tail(twins[i], plan.ranks), curve = this.curves[twins[i].name];
      lost += tail;
      if (tail <= 1e-12) continue;
      if (curve) alone[this.side(twins[i])] += this.damage(curve, tail);
      else known = false;
    }
    const together = ([side, sum]) => (sum && this.curves[side] ? this.damage(this.curves[side], sum) : sum);
    const damage = known ? Object.entries(alone).map(together).reduce((a, b) => a + b) : null;
    const pairs = (old, now) => Object.fromEntries(Object.keys(old).map((key) => [key, [old[key], now[key]]]));
    const [sides, work] = ["parameters", "multiply-adds"].map((of) => pairs(this.counts[of].whole, after[of]));
    const bytes = sides.model.map((n) => 2 * n), energy = 1 - lost / twins.length;
    return { ...pairs(this.before, after), ...sides, "multiply-adds": work, bytes, energy, damage };
  }

  // The share of a twin's energy that is lost; nobody misses queries and keys of heads whose values are gone.
  tail(twin, ranks) {
    if (this.data !== this.picture.data) { this.data = this.picture.data; this.tails = new Map(); }
    if (!this.tails.has(twin)) this.tails.set(twin, this.suffixes(twin));
    const { sums, total } = this.tails.get(twin);
    const values = twin.kind === "query_key" && this.named(twin.name.replace("query_key", "value_output"))[0];
    let lost = 0;
    for (let h = 0; h < twin.heads; h++) {
      const rank = ranks[twin.unit + h];
      if (rank >= twin.full || (values && !ranks[values.unit + h])) continue;
      let next = this.picture.sample(twin, rank);
      if (this.picture.index(twin, next) < rank) next += 1;
      const from = twin.offset + h * twin.points, at = this.picture.index(twin, next), right = this.data[from + next] ** 2;
      lost += sums[h * twin.points + next];
      if (at === rank) continue;
      const before = this.picture.index(twin, next - 1), left = this.data[from + next - 1] ** 2;
      const here = left + ((right - left) * (rank - before)) / (at - before);
      lost += ((at - rank) * (here + right) + here - right) / 2;
    }
    return lost / total;
  }

  // Energy from every sample to the end. Neurons are sent thinned: straight lines between the samples.
  suffixes(twin) {
    const sums = new Float64Array(twin.heads * twin.points);
    let total = 0;
    for (let h = 0; h < twin.heads; h++) {
      const from = twin.offset + h * twin.points;
      let sum = 0;
      for (let k = twin.points - 1; k >= 0; k--) {
        const energy = this.data[from + k] ** 2;
        if (k === twin.points - 1) sum = energy;
        else {
          const right = this.data[from + k + 1] ** 2, gap = this.picture.index(twin, k + 1) - this.picture.index(twin, k);
          sum += (gap * (energy + right) + energy - right) / 2;
        }
        sums[h * twin.points + k] = sum;
      }
      total += sum;
    }
    return { sums, total: total || 1 };
  }

  damage({ x, y, slope }, cut) { // logarithms of what is cut and of the damage, as measured
    const at = Math.log(Math.max(cut, 1e-12)), last = x.length - 1;
    if (at <= x[0]) return Math.exp(y[0] + at - x[0]);
    if (at >= x[last]) return Math.exp(y[last] + slope * (at - x[last]));
    const k = x.findIndex((v) => v > at);
    return Math.exp(y[k - 1] + ((y[k] - y[k - 1]) * (at - x[k - 1])) / (x[k] - x[k - 1]));
  }
}
