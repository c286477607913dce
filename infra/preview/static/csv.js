// A panel's rows as a file.

import { stamp } from "./time.js";

export function csv(title, fields, zone) {
  const rows = Math.max(0, ...fields.map((field) => field.values.length));
  const lines = [fields.map((field) => quoted(field.title)).join(",")];
  for (let row = 0; row < rows; row++) lines.push(fields.map((field) => quoted(raw(field, row, zone))).join(","));
  const address = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
  const anchor = Object.assign(document.createElement("a"), { href: address, download: `${title.replace(/[^\w-]+/g, "-").toLowerCase() || "panel"}.csv` });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function raw(field, row, zone) {
  const value = field.values[row];
  return value === null || value === undefined ? "" : field.type === "time" ? stamp(value, zone) : value;
}

function quoted(value) {
  const text = String(value);
  // A spreadsheet would run a text that begins like a formula.
  const tame = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(tame) ? `"${tame.replaceAll('"', '""')}"` : tame;
}
