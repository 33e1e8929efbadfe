// Listen: a list of clips, the chosen one to hear and see, and what every model makes of it. Drawn from traits alone.

const REST = 90; // ms without another key until a clip is asked for: holding a key down flies over the list
const KINDS = ["substitute", "insert", "delete"];

// ---- the list of clips --------------------------------------------------------------------------------------

function listOf(model, choose) {
  const node = make("div", { class: "aw-listen-list", role: "listbox", tabindex: 0, "aria-label": "Clips" });
  const prefix = `aw-clip-${Math.random().toString(36).slice(2)}-`;
  let order = [], options = new Map(), shown = null;

  function change([before, after]) {
    const by = Math.abs(after - before), what = by === 1 ? "error" : "errors";
    if (!by) return "";
    return after > before ? `▲ ${by} more ${what}` : `▼ ${by} fewer ${what}`;
  }

  function read() {
    const clips = model.get("clips"), { positions, errors } = model.get("ranking");
    order = positions.length ? positions : clips.map((_, i) => i);
    options = new Map(order.map((position) => {
      const [id, seconds, text] = clips[position];
      const said = errors.length ? change(errors[position]) : "";
      const option = make("div", { role: "option", id: prefix + position, "aria-selected": "false" },
        make("div", { class: "aw-listen-words", title: text }, text),
        make("div", { class: "aw-listen-about aw-faint" }, make("span", {}, id), make("span", {}, seconds)));
      if (said) option.lastChild.append(make("strong", {}, said));
      option.addEventListener("click", () => choose(position));
      return [position, option];
    }));
    node.replaceChildren(...options.values());
    shown = null;
  }

  function mark(position) {
    options.get(shown)?.setAttribute("aria-selected", "false");
    const option = options.get((shown = position));
    if (!option) return;
    option.setAttribute("aria-selected", "true");
    node.setAttribute("aria-activedescendant", option.id);
    // scrollIntoView would scroll the notebook too.
    const top = option.offsetTop, bottom = top + option.offsetHeight;
    if (top < node.scrollTop) node.scrollTop = top;
    else if (bottom > node.scrollTop + node.clientHeight) node.scrollTop = bottom - node.clientHeight;
  }

  const step = (by) => order[clamp(order.indexOf(shown) + by, 0, order.length - 1)];
  node.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(node.clientHeight / (node.firstChild?.offsetHeight || 44)) - 1);
    const by = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -order.length, End: order.length }[event.key];
    if (by === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(step(by));
  });
  return { node, read, mark, step, index: () => order.indexOf(shown), size: () => order.length };
}

// ---- the words ----------------------------------------------------------------------------------------------

// A word under the reference, as marked for the eye: shape and sign say what colour says.
function marked([kind, word]) {
  if (kind === "equal") return word;
  const tag = { substitute: "u", insert: "ins", delete: "del" }[kind];
  return make(tag, { class: `aw-listen-${kind}` }, kind === "insert" ? `+${word}` : word);
}

// The same for the ear: one sentence a model.
function spoken(row, columns, k) {
  const words = columns.map(({ reference, heard }) => {
    if (!heard[k]) return "";
    const [kind, word] = heard[k];
    return { equal: word, substitute: `${word} (wrong, for ${reference})`, insert: `${word} (added)`,
      delete: `(missing: ${word})` }[kind];
  });
  return `${row.name}, ${row.errors}: ${words.filter(Boolean).join(" ")}`;
}

function wordsOf() {
  const flow = make("div", { class: "aw-listen-flow" });
  const gutter = make("div");
  const picture = make("div", { class: "aw-listen-lines", "aria-hidden": "true" }, gutter, flow);
  const text = make("ul", { class: "aw-hidden" });
  const node = make("div", {}, picture, text);
  let names = [], drawn = "";

  // The browser breaks the lines; each then gets the names of its rows.
  function label() {
    const tops = [...new Set([...flow.children].map((column) => column.offsetTop))];
    gutter.replaceChildren(...tops.map((top) => {
      const block = make("div", { class: "aw-listen-names" }, ...names.map((name) => make("div", { title: name }, name)));
      block.style.top = `${top}px`;
      return block;
    }));
  }

  function draw({ reference, columns, rows }) {
    const state = JSON.stringify([reference, columns, rows.map((row) => [row.name, row.errors])]);
    if (state === drawn) return;
    drawn = state;
    names = ["reference", ...rows.map((row) => row.name)];
    const longest = Math.max(...names.map((name) => name.length));
    node.style.setProperty("--aw-listen-names", `${clamp(7 * longest + 8, 72, 136)}px`);
    const cell = (row, word) => make("div", {}, word ? marked(word) : row.text === null ? "·" : "");
    flow.replaceChildren(...columns.map(({ reference, heard }) => make("div", { class: "aw-listen-column" },
      make("div", {}, reference), ...rows.map((row, k) => cell(row, heard[k])))));
    if (!columns.length) flow.append(make("div", { class: "aw-listen-column aw-faint" }, make("div", {}, "(no words)")));
    text.replaceChildren(make("li", {}, `reference: ${columns.map((c) => c.reference).filter(Boolean).join(" ")}`),
      ...rows.map((row, k) => (row.text === null ? null : make("li", {}, spoken(row, columns, k)))).filter(Boolean));
    label();
  }
  return { node, draw, label };
}

// ---- the numbers --------------------------------------------------------------------------------------------

function numbersOf(again) {
  const body = make("tbody");
  const sign = (kind, sample) => [marked([kind, sample])];
  const total = make("span");
  const heads = [["Model"], [total, "aw-number"], [sign("substitute", "wrong"), "aw-number"],
    [sign("insert", "added"), "aw-number"], [sign("delete", "missing"), "aw-number"], ["Time", "aw-number"], ["× real time", "aw-number"]];
  const table = make("table", { class: "aw-listen-numbers" },
    make("caption", { class: "aw-hidden" }, "Word errors of each model on this clip, and the time it took for it"),
    make("thead", {}, make("tr", {}, ...heads.map(([what, kind = ""]) => make("th", { scope: "col", class: kind }, ...[what].flat())))),
    body);
  const button = make("button", { type: "button", onclick: again }, "Try again");
  const problems = make("div", { class: "aw-column" }), loops = make("div");
  const node = make("div", { class: "aw-column" }, make("div", { class: "aw-listen-wide" }, table), loops, problems, make("div", {}, button));
  let drawn = "";

  function draw({ rows }) {
    const state = JSON.stringify(rows);
    if (state === drawn) return;
    drawn = state;
    const known = rows.find((row) => row.errors);
    say(total, known ? `Errors in ${known.counts.words} ${known.unit}` : "Errors");
    body.replaceChildren(...rows.map((row) => {
      const number = (value) => make("td", { class: "aw-number" }, `${value}`);
      const note = (columns) => make("td", { class: "aw-faint aw-number", colspan: columns }, row.error ? "failed" : row.note);
      const counts = row.errors ? [row.wrong, ...KINDS.map((kind) => row.counts[kind])].map(number) : [];
      const times = row.time ? [row.time, row.speed].map(number) : [note(counts.length ? 2 : 6)];
      return make("tr", {}, make("th", { scope: "row" }, row.name), ...counts, ...times);
    }));
    loops.replaceChildren(...rows.filter((row) => row.looped)
      .map((row) => make("div", { class: "aw-faint" }, `${row.name} repeated itself; its text was cut after the first round.`)));
    problems.replaceChildren(...rows.filter((row) => row.error).map((row) => {
      const box = make("div", { class: "aw-alert", role: "alert" }, `${row.name}: ${row.error}`);
      if (row.details) box.append(folded(row.details));
      return box;
    }));
    button.parentElement.hidden = !rows.some((row) => row.state === "failed" || row.state === "stopped");
  }
  return { node, draw };
}

// ---- all of it ----------------------------------------------------------------------------------------------

function render({ model, el }) {
  const problem = alertBox(), silence = alertBox(), lost = alertBox();
  const audio = make("audio", { controls: "", preload: "auto" });
  const picture = pictureOf(model, (seconds) => { audio.currentTime = seconds; picture.place(seconds); });
  const list = listOf(model, choose);
  const words = wordsOf(), numbers = numbersOf(() => model.send({ do: "again" }));
  const corpus = make("select", { "aria-label": "Corpus", onchange: () => model.send({ do: "choose", corpus: corpus.value }) },
    ...model.get("corpora").map((name) => make("option", { value: name }, name)));
  const order = make("select", { "aria-label": "Order of the clips", onchange: () => model.send({ do: "arrange", order: order.value }) },
    make("option", { value: "corpus" }, "as in the corpus"), make("option", { value: "worst" }, "got worse first"));
  const previous = make("button", { type: "button", title: "Previous clip (p)", "aria-keyshortcuts": "p", onclick: () => go(-1) }, "‹ Previous");
  const next = make("button", { type: "button", title: "Next clip (n)", "aria-keyshortcuts": "n", onclick: () => go(1) }, "Next ›");
  const where = make("span", { class: "aw-faint" });
  const find = make("button", { type: "button", onclick: () => model.send({ do: "find" }) }, "Find the clips that got worse");
  const bar = make("progress", { max: 1, "aria-label": "Progress of the search" });
  const searching = make("span", { class: "aw-faint" });
  const cancel = make("button", { type: "button", onclick: () => { cancel.disabled = true; model.send({ do: "cancel" }); } }, "Cancel");
  const search = make("div", { class: "aw-row" }, bar, searching, cancel);
  const found = make("div", { role: "status" });
  const raw = make("div", { class: "aw-listen-raw" });
  const live = make("div", { class: "aw-hidden", role: "status", "aria-live": "polite" });
  const right = make("div", { class: "aw-column aw-listen-right" }, silence.node, picture.node, audio, words.node, numbers.node,
    make("details", {}, make("summary", {}, "As written, before case, punctuation and spelling are made alike"), raw));
  const root = make("section", { class: "aw aw-listen aw-column", "aria-label": "Listen" },
    make("div", { class: "aw-row" }, corpus, previous, next, where,
      make("label", { class: "aw-row" }, make("span", { class: "aw-faint" }, "Order"), order), find),
    search, found, problem.node, lost.node,
    make("div", { class: "aw-listen-parts" }, make("div", { class: "aw-listen-left" }, list.node), right), live);
  el.append(root);

  // Which clip: the mark runs ahead of the kernel, which is asked once the keys rest.
  let asked = 0, timer = 0, wanted = null;
  function choose(position) {
    if (position === undefined) return;
    wanted = position;
    mark(position);
    clearTimeout(timer);
    const send = () => { asked = performance.now(); timer = 0; model.send({ do: "choose", corpus: corpus.value, position: wanted }); };
    if (performance.now() - asked > 3 * REST) send();
    else timer = setTimeout(send, REST);
  }
  function go(by) { choose(list.step(by)); }
  function mark(position) {
    list.mark(position);
    say(where, `${list.index() + 1} of ${list.size()}`);
    able(previous, list.index() > 0);
    able(next, list.index() < list.size() - 1);
  }

  // Sound
  let address = "", frame = 0;
  function load() {
    const bytes = model.get("audio"), resume = !audio.paused && !audio.ended, sound = model.get("sound");
    if (address) URL.revokeObjectURL(address);
    address = bytes?.byteLength ? URL.createObjectURL(new Blob([copy(bytes)], { type: "audio/wav" })) : "";
    audio.hidden = picture.node.hidden = !address;
    if (address) audio.src = address;
    else audio.removeAttribute("src");
    audio.setAttribute("aria-label", `Clip ${sound.id}`);
    silence.show({ sentence: sound.problem ?? "" });
    picture.read();
    follow();
    if (address && resume) play();
  }
  function play() { audio.play().catch(() => {}); } // a browser may refuse; the controls then show it
  function follow() {
    cancelAnimationFrame(frame);
    picture.place(audio.currentTime || 0);
    if (!audio.paused) frame = requestAnimationFrame(follow);
  }
  for (const event of ["play", "pause", "seeked", "timeupdate", "ended"]) audio.addEventListener(event, follow);

  root.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target;
    if (at.closest("select, input, audio")) return;
    const onPicture = at === picture.node, far = event.shiftKey ? 1 : 0.1;
    const seconds = { ArrowLeft: audio.currentTime - far, ArrowRight: audio.currentTime + far, Home: 0, End: audio.duration }[event.key];
    if (event.key === " " && !at.closest("button, summary")) audio.paused ? play() : audio.pause();
    else if (event.key === "n") go(1);
    else if (event.key === "p") go(-1);
    else if (onPicture && Number.isFinite(seconds)) { audio.currentTime = clamp(seconds, 0, audio.duration); follow(); }
    else return;
    event.preventDefault();
  });

  // What the kernel says
  function drawList() {
    list.read();
    drawChoice();
    order.value = model.get("ranking").order;
    order.disabled = !model.get("ranking").errors.length;
    say(found, model.get("ranking").summary);
    drawSearch();
  }
  function drawChoice() {
    const choice = model.get("choice");
    if (timer) return; // the person is on the way to another
    corpus.value = choice.corpus;
    mark((wanted = choice.position));
  }
  let told = "";
  function drawTranscript() {
    const transcript = model.get("transcript");
    words.draw(transcript);
    numbers.draw(transcript);
    raw.replaceChildren(...[["reference", transcript.reference], ...transcript.rows.map((row) => [row.name, row.text ?? ""])]
      .map(([name, text]) => make("div", {}, make("span", { class: "aw-faint" }, name), make("span", {}, text))));
    const news = transcript.rows.filter((row) => row.state === "done").map((row) => `${row.name}: ${row.errors}`).join(", ");
    if (news !== told) say(live, (told = news));
    wake();
  }
  function drawSearch() {
    const state = model.get("search");
    find.disabled = !state.can;
    find.title = state.why;
    find.hidden = state.active || model.get("ranking").errors.length > 0;
    search.hidden = !state.active;
    cancel.disabled = state.stopping;
    say(searching, state.stopping ? "stopping …" : state.text);
    if (state.share === null) bar.removeAttribute("value");
    else bar.value = state.share;
    lost.show({ sentence: state.error, details: state.details });
  }
  const drawError = () => problem.show(model.get("error"));

  // Models work only for somebody who looks.
  let visible = false;
  function wake() { if (visible && model.get("transcript").asleep) model.send({ do: "wake" }); }
  const sight = new IntersectionObserver((entries) => { visible = entries.at(-1).isIntersecting; wake(); });
  const size = new ResizeObserver(() => { picture.draw(); words.label(); follow(); });
  const theme = new MutationObserver(() => picture.draw());
  const handlers = {
    "change:clips": drawList, "change:ranking": drawList, "change:choice": drawChoice, "change:sound": load,
    "change:transcript": drawTranscript, "change:search": drawSearch, "change:error": drawError,
  };
  for (const [event, handler] of Object.entries(handlers)) model.on(event, handler);
  drawList();
  load();
  drawTranscript();
  drawError();
  size.observe(right);
  sight.observe(root);
  theme.observe(document.body, { attributes: true });

  return () => {
    for (const [event, handler] of Object.entries(handlers)) model.off(event, handler);
    for (const observer of [size, sight, theme]) observer.disconnect();
    clearTimeout(timer);
    cancelAnimationFrame(frame);
    audio.pause();
    audio.removeAttribute("src");
    if (address) URL.revokeObjectURL(address);
  };
}

export default { render };
