// Data links on what a panel shows: one link is a click, several are a choice.

import { h, popover } from "./dom.js";
import { filled, safe } from "./links.js";

/** The values of a row by column name, as links name them. */
export function rowOf(fields, row) {
  return Object.fromEntries(fields.map((field) => [field.name, field.type === "time" ? field.values[row] : field.values[row] ?? ""]));
}

/** Addresses of a field's links for a value: [{title, url, blank}]. */
export function addresses({ field, value, fields = [], row = 0 }) {
  return (field.config.links ?? []).map((link) => ({
    title: link.title || "Open",
    url: safe(filled(link.url, { row: rowOf(fields, row), field, value })),
    blank: Boolean(link.targetBlank),
  }));
}

/** An element that leads where its field's links lead; the element itself without links. */
export function linked(element, where) {
  const found = addresses(where);
  if (!found.length) return element;
  if (found.length === 1) {
    return h("a.linked", { href: found[0].url, title: found[0].title, target: found[0].blank ? "_blank" : undefined, rel: "noopener" }, element);
  }
  return h("button.linked", { onclick: (event) => choose(event.currentTarget, found) }, element);
}

/** A choice of links beside an element or at a place of the window. */
export function choose(anchor, found) {
  popover(anchor, h("div.choices", {}, found.map(({ title, url, blank }) => h("a", { href: url, target: blank ? "_blank" : undefined, rel: "noopener", onclick: () => document.querySelector(".popover")?.close() }, title))));
}

/** The same for a place in a drawing: one link is followed at once. */
export function follow(event, found, go) {
  if (found.length === 1) go(found[0].url);
  else if (found.length) {
    const at = { getBoundingClientRect: () => ({ left: event.clientX, bottom: event.clientY, top: event.clientY }), contains: () => false };
    choose(at, found);
  }
}
