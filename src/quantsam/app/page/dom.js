// Small helpers for the document.

export const byId = (id) => document.getElementById(id);

export const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

export const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

export function button(text, label, key, onClick) {
  const made = element("button", { type: "button", textContent: text });
  if (label) made.setAttribute("aria-label", label);
  made.dataset.key = key;
  made.addEventListener("click", onClick);
  return made;
}

// Draws a part of the page anew; what had the focus in it, by its `data-key`, has it again.
export function redraw(root, draw) {
  const key = root.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  draw();
  if (key) root.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

let ticking = 0;

// Shows, and tells screen readers, what is going on; while busy also for how long.
export function say(text, { busy = false, error = false } = {}) {
  const line = byId("status");
  line.classList.toggle("busy", busy);
  line.classList.toggle("error", error);
  byId("status-text").textContent = text;
  if (busy && ticking) return;
  clearInterval(ticking);
  ticking = 0;
  byId("status-time").textContent = "";
  if (!busy) return;
  const start = performance.now();
  ticking = setInterval(() => {
    byId("status-time").textContent = `${Math.round((performance.now() - start) / 1000)} s`;
  }, 1000);
}

export const complain = (error) => say(error.message, { error: true });
