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
  return node;
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
