// Grafana's colour names, palettes, thresholds and value mappings; one set of hues for dark and one for light.

const HUES = {
  dark: { green: "#73BF69", yellow: "#F2CC0C", red: "#F2495C", blue: "#5794F2", orange: "#FF9830", purple: "#B877D9" },
  light: { green: "#3F9142", yellow: "#C79A00", red: "#D6293E", blue: "#2F6FD0", orange: "#DB6E00", purple: "#8F4FBF" },
};
const SHADES = { "super-light-": 0.6, "light-": 0.3, "semi-dark-": -0.18, "dark-": -0.35 };
/** Told apart by many, in an order in which neighbours differ. */
const CLASSIC = [
  "#73BF69", "#5794F2", "#FF9830", "#B877D9", "#F2495C", "#37B5B6", "#F2CC0C", "#8AB8FF", "#C4633F", "#96D98D", "#E0559A", "#6D7FCC",
  "#A0B44C", "#5FA8D3", "#D9A36A", "#9C6ADE", "#E57373", "#4DB6AC", "#D4B106", "#7986CB", "#A1887F", "#81C784", "#BA68C8", "#90A4AE",
];
const SCHEMES = {
  Blues: ["#10243f", "#12407a", "#1f60c4", "#5794f2", "#8ab8ff", "#d5e6ff"],
  Greens: ["#0c2a18", "#19592c", "#37872d", "#73bf69", "#c8f2c2"],
  Oranges: ["#331b07", "#7a3d0a", "#c15c17", "#ff9830", "#ffdcb0"],
  Reds: ["#330d12", "#7d1825", "#c4162a", "#f2495c", "#ffc4ca"],
  Purples: ["#23123a", "#4b2a77", "#8f3bb8", "#b877d9", "#ead6f5"],
  Spectral: ["#3288bd", "#99d594", "#e6f598", "#fee08b", "#fc8d59", "#d53e4f"],
  RdYlGn: ["#d73027", "#fc8d59", "#fee08b", "#d9ef8b", "#91cf60", "#1a9850"],
  Turbo: ["#30123b", "#4686fb", "#1ae4b6", "#a2fc3c", "#faba39", "#e4460a"],
  Viridis: ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"],
};
const CONTINUOUS = { GrYlRd: ["green", "yellow", "red"], RdYlGr: ["red", "yellow", "green"], BlYlRd: ["blue", "yellow", "red"], BlPu: ["blue", "purple"], YlRd: ["yellow", "red"], blues: ["#10243f", "#8ab8ff"], greens: ["#0c2a18", "#96d98d"], reds: ["#330d12", "#ff7383"], purples: ["#23123a", "#ca95e5"] };

const scheme = matchMedia("(prefers-color-scheme: light)");
let forced = null;

/** dark or light: what was asked for, or the system's. */
export const theme = () => forced ?? (scheme.matches ? "light" : "dark");

export function forceTheme(name) {
  forced = name === "dark" || name === "light" ? name : null;
  document.documentElement.dataset.theme = theme();
}

export function onTheme(changed) {
  scheme.addEventListener("change", () => {
    forceTheme(forced);
    changed();
  });
}

/** The value of a custom property of the page's style. */
export const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A colour by Grafana's name for it, or as it is. */
export function named(name) {
  if (!name || name === "text") return css("--text");
  if (name === "transparent" || /^(#|rgb)/.test(name)) return name;
  const hues = HUES[theme()];
  for (const [prefix, amount] of Object.entries(SHADES)) {
    if (name.startsWith(prefix)) return shaded(hues[name.slice(prefix.length)], amount);
  }
  return hues[name] ?? name;
}

export const classic = (place) => (theme() === "light" ? shaded(CLASSIC[place % CLASSIC.length], -0.15) : CLASSIC[place % CLASSIC.length]);

function shaded(hex, amount) {
  const target = amount > 0 ? 255 : 0;
  return `#${channels(hex).map((c) => Math.round(c + (target - c) * Math.abs(amount)).toString(16).padStart(2, "0")).join("")}`;
}

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

export function transparent(color, alpha) {
  return color.startsWith("#") && color.length === 7 ? `rgba(${channels(color).join(",")},${alpha})` : color;
}

/** Black or white, whichever is read better on a colour. */
export function contrast(color) {
  if (!/^#\w{6}$/.test(color)) return css("--text");
  const [r, g, b] = channels(color);
  return r * 0.299 + g * 0.587 + b * 0.114 > 150 ? "#111318" : "#ffffff";
}

/** A scheme's colours from low to high; in the light theme low is light. */
export function ramp(name, reverse = false) {
  const steps = SCHEMES[name] ?? SCHEMES[Object.keys(SCHEMES).find((known) => known.toLowerCase() === String(name).toLowerCase())] ?? SCHEMES.Blues;
  const flipped = theme() === "light" && !["Spectral", "RdYlGn", "Turbo", "Viridis"].includes(name);
  return reverse !== flipped ? [...steps].reverse() : steps;
}

/** Mix of a list of colours at 0..1. */
export function between(steps, share) {
  const at = Math.max(0, Math.min(1, share)) * (steps.length - 1);
  const low = channels(steps[Math.floor(at)]);
  const high = channels(steps[Math.ceil(at)]);
  return `#${low.map((c, n) => Math.round(c + (high[n] - c) * (at % 1)).toString(16).padStart(2, "0")).join("")}`;
}

/** The threshold a value has reached: {value, color}. */
export function threshold(config, value, low = config.min ?? 0, high = config.max ?? 100) {
  const { mode, steps } = config.thresholds ?? { mode: "absolute", steps: [{ value: null, color: "green" }] };
  const measured = mode === "percentage" ? ((value - low) / (high - low)) * 100 : value;
  return steps.findLast((step) => step.value === null || step.value === undefined || measured >= step.value) ?? steps[0];
}

/** A value's colour by its field's colour mode; null where the mode colours series and not values. */
export function ofValue(field, value) {
  const { config } = field;
  const mode = config.color?.mode;
  if (mode === "fixed") return named(config.color.fixedColor);
  if (typeof value !== "number" && typeof value !== "boolean") return null;
  if (mode?.startsWith("continuous-")) {
    const steps = (CONTINUOUS[mode.slice(11)] ?? CONTINUOUS.GrYlRd).map(named);
    const low = config.min ?? 0;
    return between(steps, (value - low) / ((config.max ?? 1) - low || 1));
  }
  return mode === "thresholds" ? named(threshold(config, Number(value)).color) : null;
}

/** A series' colour: its own, or the palette's by place. */
export function ofSeries(field, place, last = null) {
  const mode = field.config.color?.mode ?? "palette-classic";
  if (mode === "fixed" || mode === "shades") return named(field.config.color.fixedColor);
  if (mode === "palette-classic-by-name") return classic(hash(field.title));
  if (mode === "thresholds" || mode.startsWith("continuous-")) return ofValue(field, last) ?? classic(place);
  return classic(place);
}

function hash(text) {
  let sum = 0;
  for (const letter of text) sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
  return sum;
}

/** The result of the first mapping that takes a value: {text, color}. */
export function mapping(mappings, value) {
  for (const { type, options } of mappings ?? []) {
    if (type === "value" && value !== null && Object.hasOwn(options, String(value))) return options[String(value)];
    if (type === "range" && typeof value === "number" && value >= (options.from ?? -Infinity) && value <= (options.to ?? Infinity)) return options.result;
    if (type === "regex" && value !== null && new RegExp(options.pattern.replace(/^\/(.*)\/\w*$/s, "$1")).test(String(value))) return options.result;
    if (type === "special" && special(options.match, value)) return options.result;
  }
  return null;
}

function special(match, value) {
  const nothing = value === null || value === undefined;
  return { null: nothing, "null+nan": nothing || Number.isNaN(value), nan: Number.isNaN(value), true: value === true, false: value === false, empty: value === "" }[match] ?? false;
}
