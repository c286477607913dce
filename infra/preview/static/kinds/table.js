// Rows as they come; a click on a column's head sorts. Only what fits is drawn at first, more on request.

import { contrast, transparent } from "../colors.js";
import { h, put } from "../dom.js";
import { display } from "../frames.js";
import { linked } from "../linking.js";

const FIRST = 200;

export function table({ spec, fields, body, host }) {
  const columns = fields.filter((field) => !field.config.custom?.hidden && !field.config.custom?.hideFrom?.viz);
  const rows = Math.max(...fields.map((field) => field.values.length));
  const [by] = spec.options?.sortBy ?? [];
  const state = host.memory(spec.id, { sort: by ? columns.findIndex((field) => field.title === by.displayName) : -1, down: Boolean(by?.desc), shown: FIRST });
  const drawn = () => {
    const order = sorted(columns[state.sort], state.down, rows);
    const heads = columns.map((field, at) => head(field, state.sort === at ? (state.down ? "descending" : "ascending") : "none", () => {
      if (state.sort === at && state.down) state.sort = -1; // the third click gives the query's own order back
      else [state.sort, state.down] = [at, state.sort === at];
      drawn();
    }));
    const left = rows - state.shown;
    const scrolled = body.firstChild?.scrollTop ?? 0;
    put(body, h("div.rows", { tabindex: "0" },
      h("table", {}, spec.options?.showHeader === false ? null : h("thead", {}, h("tr", {}, heads)),
        h("tbody", {}, order.slice(0, state.shown).map((row) => h("tr", {}, columns.map((field) => cell(field, row, fields, host)))))),
      left > 0 ? h("button.small.more", { onclick: () => { state.shown += 1000; drawn(); } }, `${left.toLocaleString("en")} more rows`) : null));
    body.firstChild.scrollTop = scrolled;
  };
  drawn();
}

function sorted(field, down, rows) {
  const order = Array.from({ length: rows }, (_, row) => row);
  if (!field) return order;
  const { values } = field;
  const missing = (value) => value === null || value === undefined || value === "";
  return order.sort((a, b) => {
    const [one, other] = [values[a], values[b]];
    if (missing(one) || missing(other)) return missing(one) - missing(other); // nothing goes last, either way
    const ahead = typeof one === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
    return down ? -ahead : ahead;
  });
}

const aligned = (field) => ({ left: "left", center: "center", right: "right" })[field.config.custom?.align] ?? (field.type === "number" && !texts(field) ? "right" : "left");
const texts = (field) => (field.config.mappings ?? []).length > 0 || /^(dateTime|time:)/.test(field.config.unit ?? "");

function head(field, sort, onclick) {
  const width = field.config.custom?.width;
  return h("th", { "aria-sort": sort, style: { textAlign: aligned(field), ...(width ? { width: `${width}px` } : {}) } },
    h("button", { onclick, title: `Sort by ${field.title}` }, field.title, h("span.arrow", { "aria-hidden": "true" }, sort === "none" ? "" : sort === "ascending" ? " ↑" : " ↓")));
}

function cell(field, row, fields, host) {
  const value = field.values[row];
  const shown = display(field, value, host.zone);
  const { type, mode } = field.config.custom?.cellOptions ?? { type: field.config.custom?.displayMode ?? "auto" };
  const style = { textAlign: aligned(field) };
  if (shown.color && type === "color-text") style.color = shown.color;
  if (shown.color && type === "color-background") Object.assign(style, { background: mode === "gradient" ? transparent(shown.color, 0.5) : shown.color, color: contrast(shown.color) });
  const text = h("span", {}, shown.text);
  const content = type === "gauge" && typeof value === "number" ? gauge(field, value, shown) : text;
  return h("td", { style, class: value === null ? "none" : undefined, title: shown.text.length > 24 ? shown.text : undefined }, linked(content, { field, value, fields, row }));
}

function gauge(field, value, shown) {
  const low = field.config.min ?? 0;
  const high = field.config.max ?? Math.max(...field.values.filter((each) => typeof each === "number"), 1);
  const share = Math.max(0, Math.min(1, (value - low) / (high - low || 1)));
  return h("span.gauge", {}, h("span.track", {}, h("span.fill", { style: { width: `${share * 100}%`, background: shown.color } })), h("span", {}, shown.text));
}
