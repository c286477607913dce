// What the address says is what is shown: board, range, variables, whose view.

const RESERVED = new Set(["from", "to", "refresh", "as", "viewPanel", "theme", "kiosk"]);
let current = { uid: "", range: { from: "now-6h", to: "now" }, variables: {}, view: "", panel: null, theme: "", kiosk: false, refresh: null };

export const boardState = () => current;

/** Read the address. Variables that it does not name are left to the board. */
export function readAddress() {
  const query = new URLSearchParams(location.search);
  const path = /^\/d\/([^/]+)/.exec(location.pathname);
  const variables = {};
  for (const [name, value] of query) if (name.startsWith("var-") && !RESERVED.has(name)) variables[name.slice(4)] = value;
  const panel = /(\d+)$/.exec(query.get("viewPanel") ?? "");
  current = {
    uid: path ? decodeURIComponent(path[1]) : "",
    range: query.has("from") ? { from: query.get("from"), to: query.get("to") ?? "now" } : null,
    variables,
    view: query.get("as") ?? "",
    panel: panel ? Number(panel[1]) : null,
    theme: query.get("theme") ?? "",
    kiosk: query.has("kiosk"),
    refresh: query.get("refresh"),
  };
  return current;
}

/** Change the state and the address with it; ``replace``: without a step in the history. */
export function update(changes, replace = false) {
  current = { ...current, ...changes };
  const query = new URLSearchParams();
  if (current.range) {
    query.set("from", current.range.from);
    query.set("to", current.range.to);
  }
  for (const [name, value] of Object.entries(current.variables)) query.set(`var-${name}`, value);
  if (current.panel !== null) query.set("viewPanel", current.panel);
  if (current.refresh !== null) query.set("refresh", current.refresh);
  if (current.view) query.set("as", current.view);
  if (current.theme) query.set("theme", current.theme);
  if (current.kiosk) query.set("kiosk", "");
  const address = `/d/${encodeURIComponent(current.uid)}?${query}`;
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
}
