// One figure, or a few side by side: as large as the panel allows.

import { contrast, css, named } from "../colors.js";
import { h, svg } from "../dom.js";
import { put } from "../dom.js";
import { display, reduce } from "../frames.js";
import { linked } from "../linking.js";

export function stat({ spec, fields, body, host }) {
  const { reduceOptions = {}, colorMode = "value", graphMode = "none", textMode = "auto" } = spec.options ?? {};
  const figures = chosen(fields, reduceOptions);
  const named_ = textMode === "value_and_name" || textMode === "name" || (textMode === "auto" && figures.length > 1);
  put(body, h("div.figures", {}, figures.map(({ field, value, row }) => {
    const shown = display(field, value, host.zone);
    const tone = shown.color ?? named("text");
    const filledIn = colorMode === "background" || colorMode === "background_solid";
    const plain = value === null && !shown.mapped;
    const style = plain ? {} : filledIn ? { background: tone, color: contrast(tone) } : { color: colorMode === "none" ? css("--text") : tone };
    const number = h("span.value", {}, h("span.number", {}, shown.number), shown.unit ? h("span.unit", {}, shown.unit) : null);
    number.style.setProperty("--letters", Math.max(3, shown.number.length + shown.unit.length * 0.6));
    return linked(
      h(`div.figure${plain ? ".none" : ""}`, { style }, named_ ? h("span.name", {}, field.title) : null, number, graphMode === "area" ? spark(field, tone) : null),
      { field, value, fields, row },
    );
  })));
}

/** Which values: one per number field, or one per row. */
export function chosen(fields, { calcs = ["lastNotNull"], values = false, limit = 25, fields: pattern = "" }) {
  const wanted = pattern ? new RegExp(pattern.replace(/^\/(.*)\/$/, "$1")) : null;
  let shown = fields.filter((field) => (wanted ? wanted.test(field.title) : field.type === "number") && !field.config.custom?.hideFrom?.viz);
  if (!shown.length) shown = fields.filter((field) => field.type !== "time").slice(0, 1);
  if (!values) return shown.map((field) => ({ field, value: reduce(field, calcs[0]), row: field.values.length - 1 }));
  const name = fields.find((field) => field.type === "string" && !shown.includes(field));
  const rows = [];
  for (let row = 0; row < Math.min(limit, shown[0]?.values.length ?? 0); row++) {
    for (const field of shown) {
      const parts = [name?.values[row], shown.length > 1 ? field.title : null].filter((part) => part !== null && part !== undefined && part !== "");
      rows.push({ field: { ...field, title: parts.join(" ") || field.title }, value: field.values[row], row });
    }
  }
  return rows;
}

function spark(field, color) {
  const values = field.values.map((value, at) => [at, value]).filter(([, value]) => typeof value === "number");
  if (values.length < 2) return null;
  const heights = values.map(([, value]) => value);
  const low = Math.min(...heights, field.config.min ?? Infinity);
  const spread = Math.max(...heights) - low || 1;
  const line = values.map(([at, value], n) => `${n ? "L" : "M"}${((at / (field.values.length - 1)) * 100).toFixed(2)} ${(30 - ((value - low) / spread) * 28).toFixed(2)}`).join("");
  return svg("svg.spark", { viewBox: "0 0 100 32", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { d: `${line}V32H0Z`, fill: color, "fill-opacity": "0.18" }),
    svg("path", { d: line, fill: "none", stroke: color, "stroke-width": "1.2", "vector-effect": "non-scaling-stroke" }));
}
