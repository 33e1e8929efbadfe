// For the scripts of widgets that show work, put between dom.js and theirs: rows, errors.

// The parent's children become `wanted`, in that order; those that stay are not touched, so no press on one is lost.
function arrange(parent, wanted) {
  for (const child of [...parent.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((node, i) => {
    if (parent.children[i] !== node) parent.insertBefore(node, parent.children[i] ?? null);
  });
}

function folded(details) {
  return make("details", {}, make("summary", {}, "Traceback"), make("pre", { tabindex: 0 }, details));
}

// A place for one error: a sentence, the traceback folded. It is announced when it changes, not at every redraw.
function alertBox() {
  const node = make("div", { class: "aw-alert", role: "alert" });
  let shown = "";
  return { node, show({ sentence = "", details = "" }) {
    if (shown === sentence + details) return;
    shown = sentence + details;
    node.replaceChildren(...(sentence ? [sentence] : []), ...(details ? [folded(details)] : []));
  } };
}

