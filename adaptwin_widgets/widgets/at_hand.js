// One line: what is at hand. Beside it the way to take it along.
export default {
  render({ model, el }) {
    const name = make("strong"), facts = make("span"), alert = alertBox();
    const folder = make("input", { type: "text", size: 34, "aria-label": "Folder to save the small model in" });
    const save = make("button", { onclick: once(() => model.send({ do: "save", folder: folder.value, form })) }, "Save the small model");
    let form = "transformers";
    const forms = choice("for", Object.entries(model.get("forms")), form, (chosen) => { form = chosen; });
    const said = make("span", { role: "status", class: "aw-faint" });
    const root = make("div", { class: "aw aw-at-hand" },
      make("div", { class: "aw-row" }, make("span", { class: "aw-faint" }, "At hand:"), name, facts),
      make("div", { class: "aw-row" }, make("label", { class: "aw-row" }, make("span", { class: "aw-faint" }, "Folder"), folder),
        forms, save, said), alert.node);
    el.append(root);
    let suggested = "";
    const show = () => {
      const info = model.get("info"), [before, after] = info.parameters;
      const million = (n) => (n / 1e6).toFixed(2);
      name.textContent = info.current === "original" ? `${info.original}, the original`
        : info.current ? `${info.original}, ${info.current}${info.tuned ? ", tuned" : ""}` : `${info.original}, a plan not tried yet`;
      const parts = [before === after ? `${million(before)} M parameters`
        : `${million(before)} → ${million(after)} M parameters (−${(100 * (1 - after / before)).toFixed(1)} %)`];
      for (const [set, [wer, low, high]] of Object.entries(info.scores)) {
        parts.push(`${info.metric} ${set} ${wer.toFixed(2)} % (${low.toFixed(1)} to ${high.toFixed(1)})`);
      }
      if (info.loading) parts.push("loading …");
      else if (!info.can_save && info.current !== "original") parts.push("no model of it here yet");
      facts.textContent = parts.join("  ·  ");
      if (!folder.value || folder.value === suggested) folder.value = info.folder;
      suggested = info.folder;
      save.disabled = !info.can_save;
    };
    const saved = () => {
      const code = model.get("saved");
      said.textContent = code ? `Saved. Load it with ${code}` : "";
    };
    const failed = () => alert.show(model.get("error"));
    const events = [["change:info", show], ["change:saved", saved], ["change:error", failed]];
    events.forEach(([event, handler]) => { model.on(event, handler); handler(); });
    return () => events.forEach(([event, handler]) => model.off(event, handler));
  },
};
