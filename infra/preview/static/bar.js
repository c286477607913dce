// The head of the page: whose view, which board, which variables, which time.

import { h, popover, put } from "./dom.js";
import { boardAddress, filled, safe } from "./links.js";
import { boardState } from "./state.js";
import { QUICK, REFRESH, describe, resolve, stamp } from "./time.js";

const head = document.getElementById("bar");
const controls = document.getElementById("controls");

export function drawBar(listed, board, go) {
  const view = board?.view ?? "";
  const audience = board?.spec.audience ?? "operator";
  const boards = listed.boards.filter((entry) => entry.audience === audience);
  put(head,
    h("a.brand", { href: "/", title: "gpufleet preview" }, h("img", { src: "/static/icon.svg", alt: "", width: "20", height: "20" }), h("span", {}, "gpufleet"), listed.site ? h("small", {}, listed.site) : null),
    views(listed, audience, view, go),
    h("nav", { "aria-label": "Boards" }, boards.map((entry) => h("a", { href: boardAddress(entry.uid, { range: boardState().range, view, theme: boardState().theme }), title: entry.description, "aria-current": entry.uid === board?.uid ? "page" : undefined }, entry.title))));
  head.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  if (!board) return put(controls);
  const redraw = () => drawControls(board);
  board.bar = redraw;
  board.variables.drawn = redraw;
  board.complaint = (text) => { board.said = text; redraw(); };
  redraw();
  return undefined;
}

function views(listed, audience, view, go) {
  if (listed.only) return h("span.view", {}, listed.only);
  const customer = listed.boards.find((entry) => entry.audience === "customer");
  const options = [["", "Operator"], ...listed.tenants.map((tenant) => [tenant, tenant])];
  if (!customer || options.length < 2) return null;
  const select = h("select.view", { "aria-label": "Whose view", title: "The boards of the operator, or those that a customer sees, asked as that customer", onchange: ({ target }) => {
    const same = listed.boards.find((entry) => entry.uid === boardState().uid && entry.audience === "customer");
    const entry = target.value ? same ?? customer : listed.boards.find(({ audience: whose }) => whose === "operator");
    go(boardAddress(entry.uid, { range: boardState().range, view: target.value, theme: boardState().theme }));
  } }, options.map(([value, text]) => h("option", { value, selected: value === (audience === "customer" ? view : "") }, text)));
  return select;
}

function drawControls(board) {
  const zone = board.zone === "utc" ? "UTC" : Intl.DateTimeFormat().resolvedOptions().timeZone;
  put(controls,
    h("div.variables", {}, board.viewed !== null ? h("button.back", { onclick: () => board.host().view(null) }, "← board") : null, board.variables.shown.map((each) => variable(board, each)), links(board), board.said ? h("span.error", { role: "status" }, board.said) : null),
    h("div.times", {},
      h("button", { onclick: (event) => picker(event.currentTarget, board), title: `Times are ${zone}` }, h("span.clock", { "aria-hidden": "true" }, "◷"), describe(boardState().range, board.zone), board.zone === "utc" ? h("small", {}, "UTC") : null),
      h("button.icon", { onclick: () => board.zoomOut(), title: "Twice the time", "aria-label": "Zoom out" }, "⊖"),
      h("button.icon", { onclick: () => board.refresh(), title: "Ask again now", "aria-label": "Refresh" }, "↻"),
      h("select", { "aria-label": "Ask again every", title: "Ask again every", onchange: ({ target }) => board.setRefresh(target.value) },
        [...new Set([...REFRESH, board.refreshEvery])].map((each) => h("option", { value: each, selected: each === board.refreshEvery }, each || "off")))));
}

/** The board's own links; the list of all boards is the head's. */
function links(board) {
  return (board.spec.links ?? []).filter(({ type, url }) => type === "link" && url).map((link) => h("a.board-link", { href: safe(filled(link.url)), title: link.tooltip || undefined, target: link.targetBlank ? "_blank" : undefined, rel: "noopener" }, link.title, " →"));
}

function variable(board, each) {
  const label = (control) => h("label", { title: each.error || undefined, class: each.error ? "wrong" : undefined }, h("span", {}, each.label), control);
  const choose = (value) => board.variables.choose(each.name, value);
  if (each.free) return label(h("input", { value: each.value, maxlength: "1000", onchange: ({ target }) => choose(target.value) }));
  const shown = each.options.find(({ value }) => value === each.value)?.text ?? each.value;
  const button = h("button.choice", { "aria-haspopup": "listbox", onclick: () => combo(button, each, choose) }, h("span", {}, shown || "–"));
  return label(button);
}

/** Choices that can be searched: a fleet has thousands of racks. Enter takes what is typed. */
function combo(button, each, choose) {
  const found = h("div.choices", { role: "listbox" });
  const input = h("input", { placeholder: `Search ${each.options.length} …`, "aria-label": `Search ${each.label}`, maxlength: "1000" });
  const take = (value) => { document.querySelector(".popover")?.close(); choose(value); };
  const fill = () => {
    const wanted = input.value.trim().toLowerCase();
    const hits = each.options.filter(({ text }) => text.toLowerCase().includes(wanted));
    put(found, hits.slice(0, 100).map(({ value, text }) => h("button", { role: "option", "aria-selected": String(value === each.value), onclick: () => take(value) }, text || "–")),
      hits.length > 100 ? h("p.quiet", {}, `${hits.length - 100} more: type to narrow`) : null, hits.length ? null : h("p.quiet", {}, each.error || "nothing of that name"));
    return hits;
  };
  input.addEventListener("input", fill);
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const hits = fill();
    take(hits.length && input.value.trim() ? hits[0].value : input.value.trim() || each.value);
  });
  fill();
  if (popover(button, [each.options.length > 8 ? input : null, found], "combo") && each.options.length > 8) input.focus();
}

function picker(button, board) {
  const range = boardState().range;
  const set = (from, to) => { document.querySelector(".popover")?.close(); board.setRange({ from, to }); };
  const absolute = (end, at) => (/^\d+$/.test(end) ? stamp(at, "utc") : end);
  const { from, to } = board.frozen;
  const fields = [h("input", { value: absolute(range.from, from), "aria-label": "From", maxlength: "40" }), h("input", { value: absolute(range.to, to), "aria-label": "To", maxlength: "40" })];
  const wrong = h("p.error");
  const apply = () => {
    const [start, end] = fields.map((field) => field.value.trim());
    if (resolve({ from: start, to: end })) set(start, end);
    else put(wrong, "expected times such as now-6h or 2026-11-22 17:00 (UTC), the first before the second");
  };
  fields.forEach((field) => field.addEventListener("keydown", (event) => event.key === "Enter" && apply()));
  popover(button, [
    h("form.range", { onsubmit: (event) => event.preventDefault() }, h("label", {}, "From", fields[0]), h("label", {}, "To", fields[1]), h("button.small", { type: "button", onclick: apply }, "Apply"), wrong),
    h("div.choices", {}, QUICK.map(([start, end, text]) => h("button", { "aria-selected": String(start === range.from && end === range.to), onclick: () => set(start, end) }, text))),
  ], "picker");
}
