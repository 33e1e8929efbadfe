// Jobs: one row a task. Rows stay the same elements while they change.

function activeRow(task, cancel) {
  const text = make("span", { class: "aw-faint" });
  const percent = make("span", { class: "aw-number" });
  const time = make("span", { class: "aw-faint aw-jobs-time" });
  const bar = make("progress", { max: 1, "aria-label": `Progress of ${task.name}` });
  const button = make("button", { type: "button", onclick: () => { asked = true; update(last); cancel(); } });
  const node = make("li", {},
    make("div", { class: "aw-what" }, make("strong", {}, task.name), text),
    make("div", { class: "aw-jobs-bar" }, bar, percent, time), button);
  let asked = false, last = task;
  function update(task) {
    last = task;
    const stopping = asked || task.stopping;
    say(text, task.text);
    say(percent, task.share === null ? "" : `${Math.floor(100 * task.share)} %`);
    say(time, task.time);
    if (task.share === null) bar.removeAttribute("value");
    else bar.value = task.share;
    bar.style.visibility = task.state === "waiting" ? "hidden" : "visible";
    say(button, stopping ? "stopping…" : "Cancel");
    able(button, !stopping);
    button.setAttribute("aria-label", stopping ? `${task.name} is stopping` : `Cancel ${task.name}`);
  }
  return { node, update };
}

function errorRow(task, dismiss) {
  const button = make("button", { type: "button", onclick: dismiss, "aria-label": `Dismiss the error of ${task.name}` },
    "Dismiss");
  const what = make("div", { class: "aw-what" }, make("strong", {}, `${task.name} failed`), make("span", {}, task.error));
  if (task.details) what.append(folded(task.details));
  return { node: make("div", { class: "aw-alert aw-jobs-error", role: "alert" }, what, button), update() {} };
}

function finishedRow(task) {
  const how = make("span", { class: "aw-faint" });
  const node = make("li", {}, make("span", {}, task.name), how);
  if (task.details) node.append(folded(task.details));
  return { node, update: (task) => say(how, [task.text, task.time, task.error].filter(Boolean).join(", ")) };
}

function render({ model, el }) {
  const rows = new Map(); // by kind and number
  const problem = alertBox();
  const errors = make("div", { class: "aw-column" });
  const active = make("ul", { class: "aw-list" });
  const idle = make("p", { class: "aw-faint" }, "Nothing is running.");
  const all = make("button", { type: "button", onclick: () => model.send({ do: "cancel_all" }) }, "Cancel all");
  const count = make("summary");
  const finished = make("ul", { class: "aw-list aw-jobs-finished" });
  const fold = make("details", {}, count, finished);
  const live = make("div", { class: "aw-hidden", role: "status", "aria-live": "polite" });
  const root = make("section", { class: "aw aw-jobs aw-column", "aria-label": "Jobs" },
    problem.node, errors, idle, active, make("div", { class: "aw-row aw-jobs-all" }, all), fold, live);
  el.append(root);
  let said = null;

  function rowsOf(kind, tasks, build) {
    return tasks.map((task) => {
      const key = `${kind} ${task.number}`;
      if (!rows.has(key)) rows.set(key, build(task));
      rows.get(key).update(task);
      return rows.get(key).node;
    });
  }

  function draw() {
    const state = model.get("state");
    const over = (task) => ["done", "stopped", "failed"].includes(task.state);
    const loud = (task) => task.state === "failed" && !task.dismissed;
    const running = state.tasks.filter((task) => !over(task));
    const quiet = state.tasks.filter((task) => over(task) && !loud(task)).reverse();
    arrange(errors, rowsOf("error", state.tasks.filter(loud),
      (task) => errorRow(task, () => model.send({ do: "dismiss", number: task.number }))));
    arrange(active, rowsOf("active", running,
      (task) => activeRow(task, () => model.send({ do: "cancel", number: task.number }))));
    arrange(finished, rowsOf("finished", quiet, finishedRow));
    idle.hidden = running.length > 0;
    all.parentElement.hidden = running.length < 2;
    fold.hidden = quiet.length === 0;
    const total = state.finished - state.tasks.filter(loud).length;
    say(count, total > quiet.length ? `${total} finished, the last ${quiet.length} listed` : `${total} finished`);
    const present = new Set(state.tasks.flatMap((t) => ["error", "active", "finished"].map((k) => `${k} ${t.number}`)));
    for (const key of rows.keys()) if (!present.has(key)) rows.delete(key);
    if (said !== null && state.said[0] !== said) live.textContent = state.said[1];
    said = state.said[0];
  }

  const drawError = () => problem.show(model.get("error"));

  model.on("change:state", draw);
  model.on("change:error", drawError);
  draw();
  drawError();
  return () => {
    model.off("change:state", draw);
    model.off("change:error", drawError);
  };
}

export default { render };
