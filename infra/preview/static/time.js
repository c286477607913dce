// Time ranges in the grammar of Grafana's picker, and how moments are written.

export const QUICK = [
  ["now-5m", "now", "Last 5 minutes"],
  ["now-15m", "now", "Last 15 minutes"],
  ["now-1h", "now", "Last hour"],
  ["now-3h", "now", "Last 3 hours"],
  ["now-6h", "now", "Last 6 hours"],
  ["now-12h", "now", "Last 12 hours"],
  ["now-24h", "now", "Last 24 hours"],
  ["now-2d", "now", "Last 2 days"],
  ["now-7d", "now", "Last 7 days"],
  ["now-30d", "now", "Last 30 days"],
  ["now-1y", "now", "Last year"],
  ["now/d", "now", "Today so far"],
  ["now-1d/d", "now-1d/d", "Yesterday"],
  ["now/M", "now", "This month so far"],
];
export const REFRESH = ["", "5s", "10s", "30s", "1m", "5m"];

const FIXED = { s: 1e3, m: 6e4, h: 36e5, d: 864e5, w: 6048e5 };

/** Milliseconds of "now-6h", "now/d", an ISO date or milliseconds; NaN for what is none. Whole units are UTC's. */
export function parseTime(text, now, roundUp = false) {
  const given = String(text).trim();
  if (!given.startsWith("now")) return /^\d{10,15}$/.test(given) ? Number(given) : Date.parse(withZone(given));
  let at = now;
  let rest = given.slice(3).replace(/\s+/g, "");
  while (rest) {
    const step = /^([-+/])(\d*)([smhdwMy])/.exec(rest);
    if (!step) return NaN;
    const count = Number(step[2] || 1);
    if (step[1] === "/") {
      at = startOf(at, step[3]);
      if (roundUp) at = moved(at, 1, step[3]) - 1;
    } else at = moved(at, step[1] === "-" ? -count : count, step[3]);
    rest = rest.slice(step[0].length);
  }
  return at;
}

function withZone(text) {
  const iso = text.replace(" ", "T");
  return /T\d/.test(iso) && !/(Z|[-+]\d\d:?\d\d)$/.test(iso) ? `${iso}Z` : iso;
}

function moved(at, count, unit) {
  if (FIXED[unit]) return at + count * FIXED[unit];
  const date = new Date(at);
  date.setUTCMonth(date.getUTCMonth() + count * (unit === "y" ? 12 : 1));
  return date.getTime();
}

function startOf(at, unit) {
  const date = new Date(at);
  if (unit === "y") return Date.UTC(date.getUTCFullYear(), 0);
  if (unit === "M") return Date.UTC(date.getUTCFullYear(), date.getUTCMonth());
  if (unit === "w") return startOf(at - date.getUTCDay() * FIXED.d, "d");
  return Math.floor(at / FIXED[unit]) * FIXED[unit];
}

/** {from, to} in milliseconds of a pair of texts; null when they make no range. */
export function resolve(range, now = Date.now()) {
  const from = parseTime(range.from, now);
  const to = parseTime(range.to, now, true);
  return from < to ? { from: Math.round(from), to: Math.round(to) } : null;
}

/** What the picker's button says. */
export function describe(range, zone) {
  const quick = QUICK.find(([from, to]) => from === range.from && to === range.to);
  if (quick) return quick[2];
  const ends = [range.from, range.to].map((end) => (String(end).startsWith("now") ? end : stamp(parseTime(end, 0), zone, false)));
  return ends.join(" – ");
}

/** 2026-11-22 17:04:05, in UTC or the browser's zone. */
export function stamp(ms, zone, seconds = true) {
  if (!Number.isFinite(ms)) return "–";
  const text = new Date(zoned(ms, zone)).toISOString().replace("T", " ");
  return text.slice(0, seconds ? 19 : 16);
}

/** Milliseconds whose UTC fields read like the zone's: what the chart library draws. */
export function zoned(ms, zone) {
  return zone === "utc" ? ms : ms - new Date(ms).getTimezoneOffset() * 6e4;
}

/** And back. */
export function unzoned(ms, zone) {
  return zone === "utc" ? ms : ms + new Date(ms + new Date(ms).getTimezoneOffset() * 6e4).getTimezoneOffset() * 6e4;
}

/** "10s" in milliseconds; 0 for none. */
export function duration(text) {
  const match = /^(\d+)([smhd])$/.exec(text || "");
  return match ? Number(match[1]) * FIXED[match[2]] : 0;
}
