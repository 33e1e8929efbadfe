// Small helpers, put before the script of every widget.
const TAKES_KEYS = ["input", "select", "button", "summary", "textarea", "audio"];

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  // JupyterLab takes arrow keys and letters for itself unless the focused element itself says no.
  if (TAKES_KEYS.includes(tag) || attributes.tabindex != null) node.setAttribute("data-lm-suppress-shortcuts", "true");
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  if (tag === "button") node.addEventListener("click", unlessDisabled, { capture: true }); // before all others
  return node;
}

function unlessDisabled(event) {
  if (event.currentTarget.getAttribute("aria-disabled") === "true") event.stopImmediatePropagation();
}

// A double click on a button is one press.
const once = (act) => (event) => { if (event.detail < 2) act(event); };

// Whether a button can be pressed. One that cannot keeps the focus: `disabled` would drop it on the page.
function able(button, can) {
  if (can) button.removeAttribute("aria-disabled");
  else button.setAttribute("aria-disabled", "true");
}

// The kernel answers every view of a widget, and one acts on it: the one that asked. answered(message, buffers) is false
// for what was not asked for.
function asking(model, answered) {
  let open = false;
  const heard = (message, buffers) => { if (open && answered(message, buffers) !== false) open = false; };
  const failed = () => { if (model.get("error").sentence) open = false; };
  model.on("msg:custom", heard);
  model.on("change:error", failed);
  return {
    ask(message) { open = true; model.send(message); },
    forget() { open = false; },
    off() { model.off("msg:custom", heard); model.off("change:error", failed); },
  };
}

function download(name, parts, type) {
  const href = URL.createObjectURL(new Blob(parts, { type }));
  make("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
}

// What stays the same costs the page no layout.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function choice(label, options, value, change) {
  const select = make("select", { onchange: () => change(select.value) });
  for (const [key, text] of options) select.append(make("option", { value: key, selected: key === value }, text));
  return make("label", { class: "aw-row" }, make("span", { class: "aw-faint" }, label), select);
}

const short = (n) => (n >= 1e6 ? `${(n / 1e6).toFixed(2)} M` : n >= 1e3 ? `${(n / 1e3).toFixed(1)} k` : `${n}`);
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
function signed(n, digits = 0) { // a minus, not a hyphen, and none before a zero
  const text = n.toFixed(digits);
  return Number(text) ? text.replace("-", "−") : (0).toFixed(digits);
}
