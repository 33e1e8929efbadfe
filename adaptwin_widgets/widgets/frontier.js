// The frontier's numbers and controls: a table of the tries, the chosen one, comparison, goal, files.
// The picture beside it is plotly's own widget; this script only names it and tells it when it has another width.

const SVG = "http://www.w3.org/2000/svg";
const MARKS = {
  circle: "M6,1A5,5 0 1 1 5.99,1Z", diamond: "M6,0L12,6L6,12L0,6Z", square: "M1,1H11V11H1Z",
  "triangle-up": "M6,0L12,11H0Z", cross: "M4,0H8V4H12V8H8V12H4V8H0V4H4Z",
  star: "M6,0L7.6,4.2L12,4.4L8.5,7.1L9.7,11.5L6,9L2.3,11.5L3.5,7.1L0,4.4L4.4,4.2Z",
};
const VERDICTS = { met: "✓", unclear: "?", "more errors": "✗" };
const FILES = [["svg", "SVG picture"], ["pdf", "PDF picture"], ["html", "HTML page"], ["csv", "CSV table"]];

function mark(set) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  for (const [name, value] of [["viewBox", "0 0 12 12"], ["width", 10], ["height", 10], ["aria-hidden", "true"]])
    svg.setAttribute(name, value);
  path.setAttribute("d", MARKS[set.marker]);
  path.setAttribute("fill", set.colour);
  svg.append(path);
  return svg;
}

// Options are replaced only when they are others, so that an open list stays open.
function choices(select, options, value) {
  const said = JSON.stringify(options);
  if (select.dataset.options !== said) {
    select.replaceChildren(...options.map(([key, text]) => make("option", { value: key }, text)));
    select.dataset.options = said;
  }
  if (document.activeElement !== select || select.value !== value) select.value = value;
}

function put(input, value, anyway) {
  if (anyway || document.activeElement !== input) input.value = value;
}

function render({ model, el }) {
  const send = (action, more = {}) => model.send({ do: action, ...more });
  const problem = alertBox();
  const live = make("div", { class: "aw-hidden", role: "status", "aria-live": "polite" });

  // -- axis and goal --
  const axis = make("select", { onchange: () => send("axis", { value: axis.value }) });
  const aimed = make("input", { type: "checkbox", onchange: aim });
  const worse = make("input", { type: "number", min: 0, step: 0.5, "aria-label": "More word errors allowed", onchange: aim });
  const unit = make("select", { "aria-label": "Unit of the word errors allowed", onchange: aim });
  const least = make("input", { type: "number", min: 0, step: 5, "aria-label": "Percent at least", onchange: aim });
  const measure = make("select", { "aria-label": "What at least so much of", onchange: aim });
  const hint = make("span", { class: "aw-faint" });
  function aim() {
    if (aimed.checked && [worse, least].some((field) => Number.isNaN(field.valueAsNumber))) return void draw(true); // emptied
    send("goal", aimed.checked ? { worse: worse.valueAsNumber, unit: unit.value, least: least.valueAsNumber, of: measure.value } : {});
  }
  const wishes = [make("span", {}, "at most"), worse, unit, make("span", {}, "more word errors, at least"), least,
    make("span", {}, "%"), measure, hint];
  const controls = make("div", { class: "aw-column" },
    make("label", { class: "aw-row" }, "Horizontal axis", axis),
    make("div", { class: "aw-row aw-frontier-goal", role: "group", "aria-label": "Goal" },
      make("label", { class: "aw-row" }, aimed, "Goal"), ...wishes));

  // -- the table --
  const head = make("tr");
  const body = make("tbody");
  const scroll = make("div", { class: "aw-frontier-table", tabindex: 0, role: "region", "aria-label": "The tries in numbers" },
    make("table", {}, make("thead", {}, head), body));
  const key = make("p", { class: "aw-faint aw-frontier-key" },
    "Word errors in percent with their 95 % interval; below them the difference to the original in points, and the rate ",
    "before tuning. Bold: no other point is better in both. In the picture filled marks are after tuning, hollow ",
    "ones before; the line joins the bold points. Goal: ✓ met, ✗ more errors, ? the interval holds both.");
  const none = make("p", { class: "aw-faint" }, "There is no try yet; the original is scored first.");

  // -- the chosen try --
  const title = make("h3", { tabindex: -1 });
  const here = make("span", { class: "aw-frontier-current" }, "current");
  const back = make("button", { type: "button", class: "aw-main", onclick: () => send("go_back") }, "Go back to this try");
  const note = make("input", { type: "text", placeholder: "What was tried, what was heard", onchange: keep,
    onkeydown: (event) => { if (event.key === "Escape") { note.value = note.dataset.kept; note.blur(); } } });
  const other = make("select", { onchange: () => send("compare", { name: other.value }) });
  const compared = make("div", { class: "aw-frontier-table", tabindex: 0, role: "region", "aria-label": "The two tries compared" });
  function keep() {
    send("note", { name: note.dataset.name, text: note.value });
  }
  const hintOfChoice = make("p", { class: "aw-faint" }, "Choose a try in the table, or click on its point in the picture.");
  const chosen = make("div", { class: "aw-column aw-frontier-chosen" },
    make("div", { class: "aw-row" }, title, here, back),
    make("label", { class: "aw-row aw-frontier-note" }, "Note", note),
    make("label", { class: "aw-row" }, "Compare with", other), compared);

  // -- files --
  const buttons = FILES.map(([kind, text]) => make("button", { type: "button", onclick: () => send("save", { kind }) }, text));
  const saved = make("span", { role: "status" });
  const wanted = asking(model, (content, buffers) => {
    if (content.file === undefined) return false;
    download(content.file, buffers, "application/octet-stream");
  });
  const link = make("button", { type: "button", onclick: () => wanted.ask({ do: "download" }) }, "Download");
  const files = make("div", { class: "aw-row", role: "group", "aria-label": "Save" }, "Save as", ...buttons, saved, link);

  const root = make("section", { class: "aw aw-column", "aria-label": "Frontier: numbers and controls" },
    problem.node, controls, none, scroll, key, hintOfChoice, chosen, files, live);
  el.append(root);

  function headOf(state) {
    const cell = (...text) => make("th", { scope: "col", class: "aw-number" }, ...text);
    head.replaceChildren(make("th", { scope: "col" }, "Try"),
      ...(state.goal.worse === undefined ? [] : [make("th", { scope: "col" }, "Goal")]),
      ...state.sets.map((set) => cell(mark(set), ` ${set.name}, ${set.metric} %`)), // first: seen in a narrow window too
      cell("Encoder removed, %"), cell("Size, MB"), cell("Speed, × real time"));
  }

  function rowOf(row, state) {
    const current = row.name === state.current;
    const pick = make("button", { type: "button", "aria-pressed": row.name === state.selected,
      onclick: () => send("select", { name: row.name }) }, row.name);
    pick.dataset.name = row.name;
    const name = make("th", { scope: "row" }, pick);
    if (current) name.append(make("span", { class: "aw-frontier-current" }, "current"));
    if (row.note) name.append(make("div", { class: "aw-faint aw-frontier-said" }, row.note));
    const number = (text) => make("td", { class: "aw-number" }, text || "–");
    const sets = row.sets.map((set) => {
      if (!set) return number("");
      const below = [set.difference, set.before && `${set.before} before`].filter(Boolean).join(" · ");
      const sign = VERDICTS[set.verdict];
      const cell = make("td", { class: "aw-number" },
        ...(sign ? [make("span", { role: "img", "aria-label": `goal ${set.verdict}`, title: `goal: ${set.verdict}` }, sign), " "] : []),
        make(set.best ? "strong" : "span", {}, set.wer), ` ${set.interval}`, make("div", { class: "aw-faint" }, below));
      if (set.best) cell.append(make("span", { class: "aw-hidden" }, "no other point is better in both"));
      return cell;
    });
    const goal = state.goal.worse === undefined ? [] : [make("td", { class: "aw-frontier-verdict" }, row.goal || "–")];
    return make("tr", { class: row.name === state.selected ? "aw-frontier-selected" : "", "aria-current": current && "true" },
      name, ...goal, ...sets, number(row.encoder), number(row.size), number(row.speed));
  }

  function comparisonOf(found) {
    const cell = (text) => make("td", { class: "aw-number" }, text);
    const line = (row) => make("tr", {}, make("th", { scope: "row" }, row.what), ...[row.first, row.second, row.difference].map(cell));
    const heading = (text) => make("th", { scope: "col", class: "aw-number" }, text);
    return make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Quantity"),
      heading(found.first), heading(found.second), heading("Difference"))), make("tbody", {}, ...found.rows.map(line)));
  }

  let drawn = "";
  function drawTable(state) {
    const now = JSON.stringify([state.rows, state.sets, state.goal, state.current, state.selected]);
    if (now === drawn) return;
    drawn = now;
    const focused = body.contains(document.activeElement) ? document.activeElement.dataset.name : undefined;
    headOf(state);
    body.replaceChildren(...state.rows.map((row) => rowOf(row, state)));
    if (focused !== undefined) [...body.querySelectorAll("button")].find((b) => b.dataset.name === focused)?.focus();
  }

  function draw(again = false) {
    const state = model.get("state");
    if (!state.rows) return;
    choices(axis, state.axes, state.axis);
    const goal = state.goal;
    aimed.checked = goal.worse !== undefined;
    for (const node of wishes) node.hidden = !aimed.checked;
    choices(unit, state.units, goal.unit ?? state.units[0][0]);
    choices(measure, state.goals, goal.of ?? state.goals[0][0]);
    const kept = aimed.checked ? goal : state.usual;
    if (aimed.checked || again || !worse.value) put(worse, kept.worse, again);
    if (aimed.checked || again || !least.value) put(least, kept.least, again);
    hint.textContent = goal.hint ?? "";
    none.hidden = state.rows.length > 0;
    scroll.hidden = key.hidden = state.rows.length === 0;
    drawTable(state);

    const row = state.rows.find((row) => row.name === state.selected);
    hintOfChoice.hidden = Boolean(row) || state.rows.length === 0;
    chosen.hidden = !row;
    if (row) {
      title.textContent = row.name;
      here.hidden = row.name !== state.current;
      const hide = !state.live || row.name === state.current;
      if (hide && document.activeElement === back) title.focus(); // not lost with the button
      back.hidden = hide;
      const another = note.dataset.name !== row.name;
      if (another && note.dataset.name && note.value !== note.dataset.kept) keep(); // typed, then clicked elsewhere
      if (another || document.activeElement !== note) note.value = row.note;
      note.dataset.name = row.name;
      note.dataset.kept = row.note;
      choices(other, [["", "no other"], ...state.rows.filter((r) => r !== row).map((r) => [r.name, r.name])], state.other);
      compared.hidden = !state.comparison.rows;
      compared.replaceChildren(...(state.comparison.rows ? [comparisonOf(state.comparison)] : []));
    }
    buttons.forEach((button) => { button.disabled = state.rows.length === 0 || Boolean(state.saved.busy); });
    const text = state.saved.busy ? `Saving ${state.saved.busy} …` : state.saved.path ? `Saved: ${state.saved.path}` : "";
    if (saved.textContent !== text) saved.textContent = text;
    link.hidden = !state.saved.path;
    link.setAttribute("aria-label", `Download ${state.saved.name ?? ""}`);
    if (live.textContent !== state.said) live.textContent = state.said;
    name(state.said);
  }

  const drawError = () => problem.show(model.get("error"));

  // -- the picture beside it --
  let plot = null;
  const watcher = new ResizeObserver(() => {
    const inside = plot?.querySelector(".main-svg");
    if (inside && plot.clientWidth && Math.abs(inside.clientWidth - plot.clientWidth) > 1) window.dispatchEvent(new Event("resize"));
  });
  function name(text) {
    plot?.setAttribute("aria-label", `Frontier, a picture of the numbers in the table. ${text}`);
  }
  function meet() {
    const found = root.closest(".aw-frontier")?.querySelector(".js-plotly-plot");
    if (!found || found === plot) return;
    watcher.disconnect();
    plot = found;
    plot.setAttribute("role", "img");
    watcher.observe(plot);
    name(model.get("state").said ?? "");
  }
  document.addEventListener("plotlywidget-after-render", meet);
  const first = requestAnimationFrame(meet);

  const changed = () => draw();
  model.on("change:state", changed);
  model.on("change:error", drawError);
  draw();
  drawError();
  return () => {
    cancelAnimationFrame(first);
    watcher.disconnect();
    document.removeEventListener("plotlywidget-after-render", meet);
    model.off("change:state", changed);
    model.off("change:error", drawError);
    wanted.off();
  };
}

export default { render };
