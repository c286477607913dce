// Counts by time and bucket as colours; the buckets are the query's columns, the lowest first.

import { moments } from "../axes.js";
import { between, ramp } from "../colors.js";
import { h, hideTip, put, showTip } from "../dom.js";
import { layout, library, onResize, plot, room } from "../plot.js";
import { stamp, zoned } from "../time.js";
import { text } from "../units.js";

export function heatmap({ spec, fields, body, host }) {
  const canvas = h("div.plot");
  const times = fields.find((field) => field.type === "time")?.values ?? [];
  const buckets = fields.filter((field) => field.type === "number");
  const { color = {}, cellValues = {}, filterValues = {}, legend = {}, yAxis = {} } = spec.options ?? {};
  const hidden = (value) => value === null || (filterValues.le !== undefined && value <= filterValues.le) || (filterValues.ge !== undefined && value >= filterValues.ge);
  const known = buckets.flatMap((field) => field.values.filter((value) => !hidden(value)));
  const low = color.min ?? 0;
  const high = color.max ?? known.reduce((a, b) => Math.max(a, b), 1);
  const exponent = color.scale === "exponential" ? color.exponent ?? 0.5 : 1;
  const share = (value) => Math.max(0, (value - low) / (high - low || 1)) ** exponent;
  const steps = ramp(color.scheme, color.reverse);
  const shownValue = (value) => text(value, cellValues.unit ?? buckets[0]?.config.unit ?? "short", cellValues.decimals ?? null);
  const scale = legend.show === false ? null : h("div.scale", {}, h("span", {}, shownValue(low)), h("i", { style: { background: `linear-gradient(90deg, ${steps.join(",")})` } }), h("span", {}, shownValue(high)));
  put(body, canvas, scale);

  const redraw = async () => {
    await library();
    if (!canvas.isConnected) return;
    const { from, to } = host.range();
    const ticks = moments(from, to, canvas.clientWidth, host.zone);
    const at = (ms) => zoned(ms, host.zone);
    const step = times.length > 1 ? Math.min(...times.slice(1).map((each, n) => each - times[n])) : 6e4;
    const titles = buckets.map((field) => field.title);
    const every = Math.ceil(titles.length / Math.max(2, canvas.clientHeight / 18));
    const shown = titles.map((_, n) => n).filter((n) => n % every === 0);
    const trace = {
      type: "heatmap", x: times.map((ms) => at(ms + step / 2)), y: titles.map((_, n) => n), z: buckets.map((field) => field.values.map((value) => (hidden(value) ? null : share(value)))),
      zmin: 0, zmax: 1, showscale: false, hoverinfo: "none", hoverongaps: false, xgap: times.length * 4 < canvas.clientWidth ? 1 : 0, ygap: titles.length * 6 < canvas.clientHeight ? 1 : 0,
      colorscale: [0, 0.2, 0.4, 0.6, 0.8, 1].map((part) => [part, between(steps, part)]),
    };
    await plot(canvas, [trace], layout(canvas, {
      margin: { l: room(titles) },
      hovermode: "closest",
      xaxis: { type: "date", range: [at(from), at(to)], tickvals: ticks.values.map(at), ticktext: ticks.texts, fixedrange: false, showgrid: false },
      yaxis: { range: yAxis.reverse ? [titles.length - 0.5, -0.5] : [-0.5, titles.length - 0.5], tickvals: shown, ticktext: shown.map((n) => titles[n]), showgrid: false },
    }));
    canvas.removeAllListeners?.("plotly_hover");
    canvas.removeAllListeners?.("plotly_relayout");
    canvas.on("plotly_hover", ({ points: [{ pointIndex: [row, column] }], event }) => {
      const value = buckets[row].values[column];
      showTip(event.clientX, event.clientY, h("time", {}, `${stamp(times[column], host.zone)} – ${stamp(times[column] + step, host.zone).slice(11)}`),
        h("div.line", {}, h("i.swatch", { style: { background: between(steps, share(value)) } }), h("span", {}, titles[row]), h("b", {}, shownValue(value))));
    });
    canvas.on("plotly_unhover", hideTip);
    canvas.on("plotly_relayout", (change) => {
      const ends = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      if (ends.every((end) => end !== undefined)) host.select(...ends.map(host.moment));
    });
  };
  redraw().catch((error) => console.error(error));
  const unwatch = onResize(canvas, () => redraw().catch((error) => console.error(error)));
  canvas.addEventListener("mouseleave", hideTip);
  return () => {
    unwatch();
    globalThis.Plotly?.purge(canvas);
  };
}
