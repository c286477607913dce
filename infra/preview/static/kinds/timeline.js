// A band per series, coloured by its state. A state lasts until the next one, or one step where nothing follows: what was
// not heard of is left empty.

import { moments } from "../axes.js";
import { classic } from "../colors.js";
import { h, hideTip, put, showTip } from "../dom.js";
import { display } from "../frames.js";
import { addresses, follow } from "../linking.js";
import { stamp } from "../time.js";
import { text } from "../units.js";

export function timeline({ spec, fields, body, host }) {
  const { from, to } = host.range();
  const bands = [];
  let times = [];
  for (const field of fields) {
    if (field.type === "time") times = field.values;
    else bands.push({ field, spans: spansOf(times, field.values, from, to, spec.options?.mergeValues !== false) });
  }
  const shownAs = (field, value) => display(field, value, host.zone);
  const legend = new Map();
  const share = (ms) => ((Math.min(to, Math.max(from, ms)) - from) / (to - from)) * 100;
  const rows = bands.map(({ field, spans }) => h("div.band", {},
    h("span.name", { title: field.title }, field.title),
    h("div.track", {}, spans.map((span) => {
      const { text: name, color } = shownAs(field, span.value);
      const tone = color ?? classic(legend.size);
      if (!legend.has(name)) legend.set(name, tone);
      const links = addresses({ field, value: span.value, fields, row: span.row });
      return h("i", {
        style: { left: `${share(span.start)}%`, width: `${Math.max(0.08, share(span.end) - share(span.start))}%`, background: legend.get(name), cursor: links.length ? "pointer" : "" },
        onpointermove: (event) => showTip(event.clientX, event.clientY, h("time", {}, `${stamp(span.start, host.zone)} – ${stamp(span.end, host.zone).slice(span.end - span.start > 864e5 ? 0 : 11)}`),
          h("div.line", {}, h("i.swatch", { style: { background: legend.get(name) } }), h("span", {}, field.title), h("b", {}, name)), h("p.quiet", {}, text((span.end - span.start) / 1000, "s", null))),
        onpointerleave: hideTip,
        onclick: (event) => follow(event, links, host.go),
      });
    }))));
  const ticks = moments(from, to, Math.max(200, body.clientWidth - 120), host.zone);
  const axis = h("div.band.axis", {}, h("span.name"), h("div.track", {}, ticks.values.map((ms, n) => h("span", { style: { left: `${share(ms)}%` } }, ticks.texts[n]))));
  put(body, h("div.bands", { tabindex: "0", style: { "--rows": bands.length } }, rows), axis,
    spec.options?.legend?.showLegend === false ? null : h("div.legend", {}, [...legend].map(([name, color]) => h("span", {}, h("i.swatch", { style: { background: color } }), name))));
}

/** [{start, end, value, row}]: equal neighbours are one. */
function spansOf(times, values, from, to, merge) {
  const steps = times.slice(1).map((at, n) => at - times[n]).sort((a, b) => a - b);
  const step = steps[Math.floor(steps.length / 2)] ?? 6e4;
  const spans = [];
  values.forEach((value, row) => {
    if (value === null) return;
    const start = times[row];
    const next = times[row + 1] ?? Infinity;
    const end = next - start <= step * 2.5 ? next : start + step;
    if (end < from || start > to) return;
    const last = spans.at(-1);
    if (merge && last && last.value === value && last.end >= start) last.end = end;
    else spans.push({ start, end, value, row });
  });
  return spans;
}
