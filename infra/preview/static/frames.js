// From the store's answer to fields with names, types and settings, the way Grafana makes frames of the plugin's rows.

import * as colors from "./colors.js";
import * as units from "./units.js";

/** A field: {name, type: time|number|string|boolean, values, labels, refId, title, config}. */

/** The fields of an answer; series (format 0) are made wide: one field per number column and combination of texts. */
export function frame(answer, format, refId) {
  const fields = answer.meta.map(({ name, type }, at) => {
    const kind = kindOf(type);
    return { name, type: kind, values: answer.data.map((row) => converted(row[at], kind)), labels: {}, refId };
  });
  return format === 0 ? wide(fields, refId) : fields;
}

function kindOf(type) {
  const inner = type.replace(/^(LowCardinality|Nullable)\((.*)\)$/, "$2").replace(/^Nullable\((.*)\)$/, "$1");
  if (/^Date/.test(inner)) return "time";
  if (/^(U?Int|Float|BFloat|Decimal)/.test(inner)) return "number";
  return inner === "Bool" ? "boolean" : "string";
}

function converted(value, kind) {
  if (value === null || value === undefined) return null;
  if (kind === "time") {
    const text = String(value).replace(" ", "T");
    const ms = Date.parse(/T/.test(text) ? (/(Z|[-+]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`) : `${text}T00:00:00Z`);
    return ms > 0 ? ms : null; // 1970 is how ClickHouse writes "never"
  }
  if (kind === "number") return Number.isFinite(Number(value)) ? Number(value) : null;
  return kind === "string" && typeof value === "object" ? JSON.stringify(value) : value;
}

function wide(fields, refId) {
  const time = fields.find((field) => field.type === "time");
  const numbers = fields.filter((field) => field.type === "number");
  const texts = fields.filter((field) => field.type === "string" || field.type === "boolean");
  if (!time || !numbers.length || !texts.length) return fields;
  const times = [...new Set(time.values)].filter((at) => at !== null).sort((a, b) => a - b);
  const place = new Map(times.map((at, row) => [at, row]));
  const series = new Map();
  time.values.forEach((at, row) => {
    const labels = Object.fromEntries(texts.map((field) => [field.name, String(field.values[row] ?? "")]));
    const key = JSON.stringify(labels);
    if (!series.has(key)) {
      series.set(key, numbers.map(({ name }) => ({ name, type: "number", labels, refId, values: new Array(times.length).fill(null) })));
    }
    if (at !== null) series.get(key).forEach((field, n) => { field.values[place.get(at)] = numbers[n].values[row]; });
  });
  return [{ ...time, values: times }, ...[...series.values()].flat()];
}

/** Give every field its settings and its title: the panel's defaults with the overrides that match, in order. */
export function configure(fields, fieldConfig) {
  const single = singleLabel(fields);
  return fields.map((field) => {
    const config = structuredClone(fieldConfig?.defaults ?? {});
    config.custom ??= {};
    const named = { ...field, title: titleOf(field, config, single) };
    for (const { matcher, properties } of fieldConfig?.overrides ?? []) {
      if (matches(matcher, named)) for (const { id, value } of properties) set(config, id, value);
    }
    return { ...named, config, title: titleOf(field, config, single) };
  });
}

function matches({ id, options }, field) {
  if (id === "byName") return field.name === options || field.title === options;
  if (id === "byNames") return (options?.names ?? []).some((name) => field.name === name || field.title === name);
  if (id === "byRegexp") {
    const [, source, flags] = /^\/(.*)\/(\w*)$/s.exec(options) ?? [null, options, ""];
    return new RegExp(source, flags).test(field.title);
  }
  if (id === "byType") return field.type === options;
  return id === "byFrameRefID" && field.refId === options;
}

function set(config, path, value) {
  const names = path.split(".");
  const last = names.pop();
  names.reduce((inner, name) => (inner[name] ??= {}), config)[last] = value;
}

function singleLabel(fields) {
  const names = new Set(fields.flatMap((field) => Object.keys(field.labels)));
  return names.size === 1 ? [...names][0] : null;
}

/** The name a person sees: its own, or that of its only label, or both. */
function titleOf(field, config, single) {
  if (config.displayName) {
    return config.displayName.replace(/\$\{__field\.(name|labels\.(\w+))\}/g, (_all, what, label) => (label ? field.labels[label] ?? "" : field.name));
  }
  const labels = single ? field.labels[single] : Object.entries(field.labels).map(([name, value]) => `${name}="${value}"`).join(", ");
  const name = field.name !== "Value" && field.name !== "value" ? field.name : "";
  return [name, single || !labels ? labels : `{${labels}}`].filter(Boolean).join(" ") || field.name;
}

/** How one value is shown: {text, number, unit, color, mapped}. */
export function display(field, value, zone) {
  const { config } = field;
  const mapped = colors.mapping(config.mappings, value);
  const color = mapped?.color ? colors.named(mapped.color) : colors.ofValue(field, value);
  if (mapped?.text) return { text: mapped.text, number: mapped.text, unit: "", color, mapped };
  if (value === null || value === undefined || value === "") {
    const empty = value === "" ? "" : config.noValue ?? "–";
    return { text: empty, number: empty, unit: "", color: null, mapped };
  }
  if (field.type === "time" || /^(dateTime|time:)/.test(config.unit ?? "")) return said(moment(value, config.unit, zone), color, mapped);
  if (typeof value === "boolean") return said(value ? "yes" : "no", color, mapped);
  if (typeof value !== "number") return said(String(value), color, mapped);
  const [number, unit] = units.parts(value, config.unit ?? "short", config.decimals ?? null);
  return { text: number + unit, number, unit, color, mapped };
}

const said = (text, color, mapped) => ({ text, number: text, unit: "", color, mapped });

function moment(value, unit, zone) {
  const ms = typeof value === "number" ? value : Date.parse(value);
  if (unit === "dateTimeFromNow") return units.text((Date.now() - ms) / 1000, "s", 0) + " ago";
  const shifted = new Date(zone === "utc" ? ms : ms - new Date(ms).getTimezoneOffset() * 6e4).toISOString();
  if (!unit?.startsWith("time:")) return shifted.slice(0, 19).replace("T", " ");
  const [year, month, day, hour, minute, second] = shifted.split(/\D/);
  const pieces = { YYYY: year, MM: month, DD: day, HH: hour, mm: minute, ss: second };
  return unit.slice(5).replace(/YYYY|MM|DD|HH|mm|ss/g, (name) => pieces[name]);
}

/** One number for a field: lastNotNull, mean, max, ... */
export function reduce(field, calculation = "lastNotNull") {
  const { values } = field;
  const known = values.filter((value) => value !== null);
  const numbers = known.filter((value) => typeof value === "number");
  const sum = () => numbers.reduce((total, value) => total + value, 0);
  switch (calculation) {
    case "last": return values.at(-1) ?? null;
    case "first": return values[0] ?? null;
    case "firstNotNull": return known[0] ?? null;
    case "mean": return numbers.length ? sum() / numbers.length : null;
    case "sum": return numbers.length ? sum() : null;
    case "min": return numbers.length ? numbers.reduce((a, b) => Math.min(a, b)) : null;
    case "max": return numbers.length ? numbers.reduce((a, b) => Math.max(a, b)) : null;
    case "count": return known.length;
    default: return known.at(-1) ?? null;
  }
}

/** Whether there is nothing to show: no rows, or no value in any field but the times. */
export function empty(fields) {
  return !fields.some((field) => field.type !== "time" && field.values.some((value) => value !== null));
}
