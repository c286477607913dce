// Elements in one expression; text is always text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** h("div.panel", {title, onclick, style: {...}}, ...children): an element. Children: nodes, texts, lists, null. */
export function h(selector, properties = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  return fill(document.createElement(tag || "div"), classes, properties, children);
}

/** The same in SVG. */
export function svg(selector, properties = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  return fill(document.createElementNS(SVG, tag), classes, properties, children);
}

function fill(element, classes, properties, children) {
  if (classes.length) element.classList.add(...classes);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "style") for (const [key, each] of Object.entries(value)) setStyle(element, key, each);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function setStyle(element, name, value) {
  if (name.startsWith("--")) element.style.setProperty(name, value);
  else element.style[name] = value;
}

/** Replace what an element holds. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
}

/** A box under a button that goes away on Escape, on a click elsewhere, and when it loses the focus. */
export function popover(button, content, className = "") {
  const open = document.querySelector(".popover");
  if (open) {
    const same = open.anchor === button;
    open.close();
    if (same) return null;
  }
  const box = h(`div.popover${className ? `.${className}` : ""}`, { role: "dialog" }, content);
  const place = button.getBoundingClientRect();
  document.body.append(box);
  const left = Math.max(8, Math.min(place.left, innerWidth - box.offsetWidth - 8));
  const below = place.bottom + 4;
  const top = below + box.offsetHeight > innerHeight - 8 ? Math.max(8, place.top - box.offsetHeight - 4) : below;
  box.style.left = `${left + scrollX}px`;
  box.style.top = `${top + scrollY}px`;
  const away = (event) => {
    if (event.type === "keydown" ? event.key === "Escape" : !box.contains(event.target) && !button.contains(event.target)) box.close();
  };
  box.anchor = button;
  box.close = () => {
    box.remove();
    document.removeEventListener("pointerdown", away, true);
    document.removeEventListener("keydown", away, true);
  };
  document.addEventListener("pointerdown", away, true);
  document.addEventListener("keydown", away, true);
  return box;
}

/** One tooltip for the whole page, beside the pointer and inside the window. */
const tip = h("div.tip", { role: "tooltip", hidden: true });

export function showTip(x, y, ...content) {
  if (!tip.isConnected) document.body.append(tip);
  put(tip, ...content);
  tip.hidden = false;
  const { offsetWidth: width, offsetHeight: height } = tip;
  const left = x + 16 + width > innerWidth - 8 ? Math.max(8, x - 16 - width) : x + 16;
  const top = Math.max(8, Math.min(y + 12, innerHeight - height - 8));
  tip.style.left = `${left}px`;
  tip.style.top = `${top}px`;
}

export function hideTip() {
  tip.hidden = true;
}
