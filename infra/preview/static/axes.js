// Places of ticks: round numbers in the unit that is shown, and round moments.

import { zoned } from "./time.js";
import { binary, clock, text } from "./units.js";

const CLOCK_STEPS = [1e-9, 2e-9, 5e-9, 1e-8, 2e-8, 5e-8, 1e-7, 2e-7, 5e-7, 1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5,
  1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2592000, 31536000];
const DATE_STEPS = [1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 108e5, 216e5, 432e5, 864e5, 1728e5, 6048e5, 1728e5 * 7, 2592e6, 7776e6, 15552e6, 31536e6];

/** {values, texts} of about ``count`` ticks between low and high. */
export function numbers(low, high, count, unit) {
  const step = stepOf((high - low) / Math.max(1, count), unit);
  const values = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) values.push(Number((n * step).toPrecision(12)));
  return { values, texts: values.map((value) => short(value, unit)) };
}

function stepOf(rough, unit) {
  const seconds = clock(unit);
  if (seconds) return (CLOCK_STEPS.find((step) => step >= rough * seconds) ?? CLOCK_STEPS.at(-1)) / seconds;
  const base = binary(unit) ? 1024 ** Math.max(0, Math.floor(Math.log(rough || 1) / Math.log(1024))) : 1;
  const power = 10 ** Math.floor(Math.log10(rough / base));
  const lead = rough / base / power;
  return base * power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
}

/** A tick's text without zeros that say nothing. */
function short(value, unit) {
  return text(value, unit, null).replace(/(\d)\.0+(?=\D|$)/, "$1").replace(/(\.\d*[1-9])0+(?=\D|$)/, "$1");
}

/** {values, texts} of moments: values in milliseconds, texts in the zone. */
export function moments(from, to, width, zone) {
  const rough = (to - from) / Math.max(2, Math.floor(width / 80));
  const step = DATE_STEPS.find((each) => each >= rough) ?? DATE_STEPS.at(-1);
  const shift = zoned(from, zone) - from; // whole hours and days of the zone, not of UTC
  const values = [];
  if (step >= 2592e6) {
    const months = Math.round(step / 2592e6);
    const date = new Date(from);
    for (let month = date.getUTCMonth(), year = date.getUTCFullYear(); ; month += 1) {
      const at = Date.UTC(year, month, 1);
      if (at > to) break;
      if (at >= from && month % months === 0) values.push(at);
    }
  } else for (let at = Math.ceil((from + shift) / step) * step - shift; at <= to; at += step) values.push(at);
  // Texts at the very ends would be cut off, or lie on the other axis' zero.
  const edge = ((to - from) / width) * 16;
  return { values, texts: values.map((at) => (at < from + edge || at > to - edge ? "" : label(zoned(at, zone), step))) };
}

function label(shifted, step) {
  const iso = new Date(shifted).toISOString();
  if (step >= 2592e6) return iso.slice(0, 7);
  if (step >= 864e5 || iso.endsWith("T00:00:00.000Z")) return iso.slice(5, 10).replace("-", "/");
  return step < 6e4 ? iso.slice(11, 19) : iso.slice(11, 16);
}
