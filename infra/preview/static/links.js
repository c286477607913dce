// Addresses of boards, and the variables inside data links.

import { boardState } from "./state.js";

/** Strict percent-encoding, as Grafana's format of that name: nothing is left that could end a text. */
export const strict = (text) => encodeURIComponent(text).replace(/[!'()*]/g, (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`);

/** The address of a board; keeps range and view. */
export function boardAddress(uid, { range, variables = {}, view = "", panel = null, theme = "" }) {
  const query = new URLSearchParams();
  if (range) {
    query.set("from", range.from);
    query.set("to", range.to);
  }
  for (const [name, value] of Object.entries(variables)) query.set(`var-${name}`, value);
  if (panel !== null) query.set("viewPanel", panel);
  if (view) query.set("as", view);
  if (theme) query.set("theme", theme);
  const text = query.toString();
  return `/d/${encodeURIComponent(uid)}${text ? `?${text}` : ""}`;
}

/** A data link's address. ``row``: names to raw values of the clicked row; ``field`` and ``value``: what was clicked. */
export function filled(url, { row = {}, field = null, value = null } = {}) {
  const { range, variables, view } = boardState();
  const encoded = new Set(["__url_time_range", "__all_variables"]);
  const known = {
    __url_time_range: `from=${strict(range.from)}&to=${strict(range.to)}`,
    __all_variables: Object.entries(variables).map(([name, each]) => `var-${strict(name)}=${strict(each)}`).join("&"),
    __from: range.from,
    __to: range.to,
    "__value.raw": value,
    "__value.numeric": value,
    "__value.text": value,
    "__field.name": field?.title,
    "__series.name": field?.title,
    ...prefixed("__field.labels.", field?.labels),
    ...prefixed("__data.fields.", row),
    ...variables,
  };
  const done = url.replace(/\$\{([^}:]+)(?::(\w+))?\}|\$(\w+)/g, (whole, braced, format, bare) => {
    const name = (braced ?? bare).replace(/^__data\.fields\["?([^"\]]+)"?\]$/, "__data.fields.$1");
    if (!Object.hasOwn(known, name)) return /^__(data|field|value|series)/.test(name) ? "" : whole;
    const text = String(known[name] ?? "");
    if (encoded.has(name) || format === "raw") return text;
    return format === "queryparam" ? `var-${strict(name)}=${strict(text)}` : strict(text);
  });
  return view && done.startsWith("/d/") ? `${done}${done.includes("?") ? "&" : "?"}as=${strict(view)}` : done;
}

const prefixed = (prefix, values) => Object.fromEntries(Object.entries(values ?? {}).map(([name, value]) => [prefix + name, value]));

/** Only addresses that lead to a page: no javascript:. */
export const safe = (url) => (/^(\/(?!\/)|https?:\/\/|#)/.test(url) ? url : "#");
