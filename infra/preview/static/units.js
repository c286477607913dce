// Numbers as people read them: Grafana's unit ids and its way of choosing decimals and prefixes.

const SI = ["n", "µ", "m", "", "k", "M", "G", "T", "P"];
const IEC = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
const SHORT = ["", " K", " Mil", " Bil", " Tri", " Quadr"];

const plain = (suffix = "") => (value, decimals) => [fixed(value, decimals), suffix];
const si = (unit, offset = 0) => (value, decimals) => {
  const [scaled, step] = scale(value, 1000, -3 - offset, 5 - offset);
  return [fixed(scaled, decimals), ` ${SI[step + 3 + offset]}${unit}`];
};
const iec = (unit) => (value, decimals) => {
  const [scaled, step] = scale(value, 1024, 0, 5);
  return [fixed(scaled, decimals), ` ${IEC[step]}${unit}`];
};
const counted = (unit = "") => (value, decimals) => {
  const [scaled, step] = scale(value, 1000, 0, 5);
  return [fixed(scaled, decimals), `${SHORT[step]}${unit}`];
};
/** Durations climb through their own ladder: [size in the unit's base, name]. */
const ladder = (steps) => (value, decimals) => {
  const size = Math.abs(value);
  const [least, name] = steps.findLast(([from]) => size >= from) ?? steps[0];
  return [fixed(value / least, decimals), ` ${name}`];
};
const DURATION = [[1e-9, "ns"], [1e-6, "µs"], [1e-3, "ms"], [1, "s"], [60, "min"], [3600, "h"], [86400, "d"], [604800, "weeks"], [31536000, "years"]];
const time = (unit) => (value, decimals) => (value === 0 ? ["0", ` ${DURATION.find(([size]) => size === unit)?.[1] ?? "s"}`] : ladder(DURATION)(value * unit, decimals));

const UNITS = {
  short: counted(),
  none: plain(),
  locale: (value, decimals) => [value.toLocaleString("en", { maximumFractionDigits: decimals ?? 3 }), ""],
  percent: plain("%"),
  percentunit: (value, decimals) => [fixed(value * 100, decimals), "%"],
  cps: counted(" c/s"), ops: counted(" ops/s"), reqps: counted(" req/s"), reqpm: counted(" req/min"), rps: counted(" rd/s"), eps: counted(" evt/s"),
  cpm: counted(" c/min"), opm: counted(" ops/min"),
  bytes: iec("B"), bits: iec("b"), decbytes: si("B"), decbits: si("b"), kbytes: (v, d) => iec("B")(v * 1024, d), mbytes: (v, d) => iec("B")(v * 1048576, d),
  Bps: si("B/s"), binBps: iec("B/s"), bps: si("b/s"), binbps: iec("b/s"), Gbits: si("b/s", 3), Mbits: si("b/s", 2), pps: si("p/s"),
  celsius: plain(" °C"), kelvin: plain(" K"), fahrenheit: plain(" °F"),
  joule: si("J"), watt: si("W"), kwatt: si("W", 1), megwatt: si("W", 2), watth: si("Wh"), kwatth: si("Wh", 1), volt: si("V"), amp: si("A"),
  hertz: si("Hz"), rothz: si("Hz"), rotmhz: si("Hz", 2), rotrpm: plain(" rpm"),
  ns: time(1e-9), "µs": time(1e-6), ms: time(1e-3), s: time(1), m: time(60), h: time(3600), d: time(86400),
  pressurekpa: plain(" kPa"), pressurebar: si("bar"), flowlpm: plain(" l/min"), flowcms: plain(" m³/s"), humidity: plain(" %H"),
  currencyUSD: (value, decimals) => { const [number, suffix] = counted()(value, decimals); return [`$${number}`, suffix]; },
  bool: (value) => [value ? "True" : "False", ""], bool_yes_no: (value) => [value ? "Yes" : "No", ""], bool_on_off: (value) => [value ? "On" : "Off", ""],
  string: (value) => [String(value), ""],
};

/** [number, unit] of a value; the unit begins with a space where one belongs. */
export function parts(value, unit = "short", decimals = null) {
  if (UNITS[unit]) return UNITS[unit](value, decimals);
  if (unit.startsWith("suffix:")) return [fixed(value, decimals), unit.slice(7)];
  if (unit.startsWith("prefix:")) return [unit.slice(7) + fixed(value, decimals), ""];
  if (unit.startsWith("si:")) return si(unit.slice(3))(value, decimals);
  return [fixed(value, decimals), unit ? ` ${unit}` : ""];
}

/** A value in one text. */
export const text = (value, unit, decimals) => parts(value, unit, decimals).join("");

/** Units that double by 1024 want other places for an axis' ticks. */
export const binary = (unit) => /^(bytes|bits|kbytes|mbytes|binBps|binbps)$/.test(unit ?? "");
/** Units whose axis steps are those of a clock: seconds in one unit, or 0. */
export const clock = (unit) => ({ ns: 1e-9, "µs": 1e-6, ms: 1e-3, s: 1, m: 60, h: 3600, d: 86400 })[unit] ?? 0;

function scale(value, base, least, most) {
  if (!value || !Number.isFinite(value)) return [value, 0];
  // A value that rounds to the next prefix takes it: 999,999 is 1 M and not 1000 k.
  let step = Math.floor(Math.log(Math.abs(value) * 1.0005) / Math.log(base));
  step = Math.max(least, Math.min(most, step));
  return [value / base ** step, step];
}

function fixed(value, decimals) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : value < 0 ? "−∞" : "NaN";
  const places = decimals ?? automatic(value);
  const rounded = value.toFixed(Math.max(0, Math.min(12, places)));
  const clean = Number(rounded) === 0 ? rounded.replace("-", "") : rounded.replace("-", "−");
  return clean.replace(/\d(?=(\d{3})+(?!\d))/g, (digit, _group, at, whole) => (whole.lastIndexOf(".", at) >= 0 ? digit : `${digit}\u2009`));
}

/** Three digits that say something, as Grafana chooses them. */
function automatic(value) {
  return !value || value % 1 === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(Number(value.toPrecision(3))))));
}
