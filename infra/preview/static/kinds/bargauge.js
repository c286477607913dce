// A bar per row: name, bar, figure.

import { named, ofValue, theme, transparent } from "../colors.js";
import { h, put } from "../dom.js";
import { display } from "../frames.js";
import { linked } from "../linking.js";
import { chosen } from "./stat.js";

export function bargauge({ spec, fields, body, host }) {
  const bars = chosen(fields, spec.options?.reduceOptions ?? {});
  const numbers = bars.map(({ value }) => value).filter((value) => typeof value === "number");
  const top = Math.max(...numbers, 0);
  const gradient = spec.options?.displayMode !== "basic";
  put(body, h("div.bars", {}, bars.map(({ field, value, row }) => {
    const low = field.config.min ?? Math.min(0, ...numbers);
    const high = field.config.max ?? (top > low ? top : low + 1);
    const share = typeof value === "number" ? Math.max(0, Math.min(1, (value - low) / (high - low))) : 0;
    const tone = ofValue(field, value) ?? named("blue");
    const shown = display(field, value, host.zone);
    const fillIn = gradient ? `linear-gradient(90deg, ${transparent(tone, 0.35)}, ${tone})` : transparent(tone, theme() === "light" ? 0.75 : 0.7);
    return linked(
      h("div.bar", { title: `${field.title}: ${shown.text}` },
        h("span.name", {}, field.title),
        h("span.track", {}, h("span.fill", { style: { width: `${share * 100}%`, background: fillIn } })),
        h("span.figure", { style: shown.color ? { color: tone } : {} }, shown.text)),
      { field, value, fields, row },
    );
  })));
}
