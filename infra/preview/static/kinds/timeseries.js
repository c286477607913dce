// Lines, areas, stacks and bars over time; a legend that isolates, a tooltip with every series, marks of what happened.

import { moments, numbers } from "../axes.js";
import { named, ofSeries, transparent } from "../colors.js";
import { h, hideTip, put, showTip } from "../dom.js";
import { display, reduce } from "../frames.js";
import { addresses, follow } from "../linking.js";
import { layout, library, onResize, plot, room } from "../plot.js";
import { stamp, zoned } from "../time.js";

export function timeseries({ spec, fields, marks, body, host }) {
  const series = seriesOf(fields);
  const memory = host.memory(spec.id, { hidden: new Set() });
  const canvas = h("div.plot");
  const legend = spec.options?.legend?.showLegend === false ? null : h("div.legend");
  put(body, canvas, legend);
  const chart = { spec, series, marks, body, host, memory, canvas, fields };
  if (legend) drawLegend(chart, legend);
  let ended = false;
  const redraw = () => draw(chart).catch((error) => ended || console.error(error));
  redraw();
  const unwatch = onResize(canvas, redraw);
  canvas.addEventListener("mouseleave", hideTip);
  canvas.addEventListener("dblclick", () => host.zoomOut());
  chart.redraw = redraw;
  return () => {
    ended = true;
    unwatch();
    if (globalThis.Plotly) globalThis.Plotly.purge(canvas);
  };
}

/** Number fields, each with the times of its own query. */
function seriesOf(fields) {
  const series = [];
  let times = [];
  for (const field of fields) {
    if (field.type === "time") times = field.values;
    else if (field.type === "number" && !field.config.custom?.hideFrom?.viz) series.push({ field, times, ...style(field) });
  }
  series.forEach((each, place) => { each.color = ofSeries(each.field, place, reduce(each.field)); });
  return series;
}

function style(field) {
  const custom = field.config.custom ?? {};
  const stacking = custom.stacking?.mode ?? "none";
  return { bars: custom.drawStyle === "bars", points: custom.drawStyle === "points", stack: stacking === "none" ? "" : custom.stacking.group ?? "A", percent: stacking === "percent" };
}

async function draw(chart) {
  await library();
  const { series, host, canvas, memory } = chart;
  if (!canvas.isConnected) return;
  const shown = series.filter(({ field }) => !memory.hidden.has(field.title));
  const { from, to } = host.range();
  const [low, high] = extent(shown);
  const config = shown[0]?.field.config ?? series[0].field.config;
  const ticks = numbers(low, high, Math.max(2, canvas.clientHeight / 38), config.unit);
  const times = moments(from, to, canvas.clientWidth, host.zone);
  const at = (ms) => zoned(ms, host.zone);
  const logarithmic = config.custom?.scaleDistribution?.type === "log";
  const arranged = layout(canvas, {
    margin: { l: room(ticks.texts) },
    barmode: shown.some(({ bars, stack }) => bars && stack) ? "relative" : "overlay",
    bargap: 0.12,
    shapes: [...limits(shown[0]?.field, low, high), ...chart.marks.flatMap((mark) => lines(mark, at, chart.marks.length > 24 ? 0.28 : 0.6))],
    annotations: chart.marks.map((mark) => flag(mark, at)),
    xaxis: {
      type: "date", range: [at(from), at(to)], tickvals: times.values.map(at), ticktext: times.texts, fixedrange: false,
    },
    yaxis: logarithmic ? { type: "log" } : { range: [low, high], tickvals: ticks.values, ticktext: ticks.texts },
  });
  await plot(canvas, traces(shown, canvas.clientWidth, at, barWidth(shown, from, to, canvas.clientWidth)), arranged);
  listen(chart, shown);
}

function listen(chart, shown) {
  const { canvas, host, fields } = chart;
  canvas.removeAllListeners?.("plotly_hover");
  canvas.removeAllListeners?.("plotly_relayout");
  canvas.removeAllListeners?.("plotly_click");
  const hair = h("i.hair", { hidden: true });
  canvas.querySelector(".hair")?.remove();
  canvas.append(hair);
  canvas.on("plotly_hover", ({ points: [point], event }) => {
    hair.hidden = false;
    hair.style.left = `${Math.round(point.xaxis._offset + point.xaxis.d2p(point.x))}px`;
    tooltip(chart, shown, host.moment(point.x), event);
  });
  canvas.on("plotly_unhover", () => {
    hair.hidden = true;
    hideTip();
  });
  canvas.on("plotly_relayout", (change) => {
    const ends = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (ends.some((end) => end === undefined)) return;
    host.select(...ends.map(host.moment));
  });
  canvas.on("plotly_click", ({ points, event }) => {
    const nearest = points.find((point) => point.data.meta !== undefined);
    const { field } = shown[nearest?.data.meta] ?? {};
    if (field) follow(event, addresses({ field, value: null, fields, row: nearest.pointNumber }), host.go);
  });
}

/** Lowest and highest of the axis: the settings' ends, else the data's with some air. */
function extent(shown) {
  let low = Infinity;
  let high = -Infinity;
  const stacks = new Map();
  for (const { field, times, stack } of shown) {
    field.values.forEach((value, row) => {
      if (value === null) return;
      let top = value;
      if (stack) {
        const key = `${stack} ${times[row]}`;
        stacks.set(key, (stacks.get(key) ?? 0) + value);
        top = stacks.get(key);
        low = Math.min(low, 0);
      }
      low = Math.min(low, top);
      high = Math.max(high, top);
    });
  }
  if (!Number.isFinite(low)) [low, high] = [0, 1];
  const setting = (name) => shown.map(({ field }) => field.config[name]).find((value) => value !== null && value !== undefined);
  const custom = (name) => shown.map(({ field }) => field.config.custom?.[name]).find((value) => value !== null && value !== undefined);
  const air = (high - low || Math.abs(high) || 1) * 0.06;
  const least = setting("min");
  const most = setting("max");
  const bars = shown.some((each) => each.bars);
  low = least ?? Math.min(custom("axisSoftMin") ?? Infinity, bars ? Math.min(0, low) : low - (low >= 0 && low - air < 0 ? low : air));
  high = most ?? Math.max(custom("axisSoftMax") ?? -Infinity, high + air);
  // A line along the end of the axis (100 %) would be cut in half.
  return low < high ? [low, most === undefined ? high : high + (high - low) * 0.012] : [low, low + 1];
}

/** Milliseconds of a bar: from its moment to the next, but no wider than a few pixels where bars are rare. */
function barWidth(shown, from, to, width) {
  const moments_ = [...new Set(shown.filter(({ bars }) => bars).flatMap(({ times }) => times))].sort((a, b) => a - b);
  const step = moments_.slice(1).reduce((least, at, n) => Math.min(least, at - moments_[n]), Infinity);
  return Math.max(((to - from) / width) * 2, Math.min(step, (to - from) / 60));
}

function traces(shown, width, at, bar) {
  return shown.flatMap((each, place) => {
    const { field, times, color, bars, points, stack, percent } = each;
    const custom = field.config.custom ?? {};
    const x = times.map(at);
    const common = { x, y: field.values, name: field.title, meta: place, hoverinfo: "none" };
    const fillOpacity = (custom.fillOpacity ?? 0) / 100;
    if (bars) return [{ ...common, type: "bar", width: bar, offset: 0, marker: { color: transparent(color, Math.max(0.35, fillOpacity)), line: { width: 0 } } }];
    const line = { color, width: custom.lineWidth ?? 1, dash: custom.lineStyle?.fill === "dash" ? "dash" : custom.lineStyle?.fill === "dot" ? "dot" : "solid", shape: SHAPES[custom.lineInterpolation] ?? "linear" };
    const dots = { color, size: sizes(field.values, custom, width, points), line: { width: 0 } };
    const marked = points ? "markers" : Array.isArray(dots.size) || dots.size > 0 ? "lines+markers" : "lines";
    const fill = { fillcolor: transparent(color, fillOpacity) };
    if (!stack) {
      const whole = { ...common, type: "scatter", mode: marked, line, marker: dots, connectgaps: custom.spanNulls === true };
      if (!fillOpacity) return [whole];
      // The library would fill across a gap: each stretch of values has an area of its own, under one line.
      const parts = whole.connectgaps ? [] : stretches(x.length, (row) => field.values[row] !== null);
      if (parts.length < 2) return [{ ...whole, fill: "tozeroy", ...fill }];
      const areas = parts.map(([first, last]) => ({ x: x.slice(first, last), y: field.values.slice(first, last), type: "scatter", mode: "lines", line: { color, width: 0 }, hoverinfo: "skip", fill: "tozeroy", ...fill }));
      return [...areas, whole];
    }
    // The library would draw a moment without any value as zero: each run of moments with values is a stack of its own.
    return runs(shown, each).map(([first, last], n) => ({
      ...common, type: "scatter", mode: last - first < 2 ? "lines+markers" : "lines", line: { ...line, width: Math.min(1, line.width) }, marker: { color, size: 4 },
      x: x.slice(first, last), y: field.values.slice(first, last).map((value) => value ?? 0), stackgroup: `${stack}${n}`, ...(percent ? { groupnorm: "percent" } : {}), ...fill,
    }));
  });
}

const SHAPES = { stepBefore: "vh", stepAfter: "hv", smooth: "spline" };

/** Stretches of rows in which any series of the stack has a value. */
function runs(shown, { stack, times }) {
  const members = shown.filter((each) => each.stack === stack && each.times === times);
  return stretches(times.length, (row) => members.some(({ field }) => field.values[row] !== null));
}

/** Stretches [first, last) of rows that hold; one of all rows when they are too many to be drawn one by one. */
function stretches(rows, holds) {
  const found = [];
  for (let row = 0; row < rows; row += 1) {
    if (!holds(row)) continue;
    if (found.at(-1)?.[1] === row) found.at(-1)[1] = row + 1;
    else found.push([row, row + 1]);
  }
  return found.length <= 40 ? found : [[0, rows]];
}

/** Sizes of dots: all when there are few, else those that stand alone and would not be seen as a line. */
function sizes(values, custom, width, points) {
  const size = Math.max(3, (custom.pointSize ?? 5) - 1);
  const count = values.reduce((sum, value) => sum + (value !== null), 0);
  if (points || custom.showPoints === "always") return size;
  if (custom.showPoints !== "never" && count && count * 14 < width) return size;
  const alone = values.map((value, row) => (value !== null && (values[row - 1] ?? null) === null && (values[row + 1] ?? null) === null ? size : 0));
  return alone.some(Boolean) ? alone : 0;
}

function limits(field, low, high) {
  const mode = field?.config.custom?.thresholdsStyle?.mode ?? "off";
  if (mode === "off" || field.config.thresholds?.mode === "percentage") return [];
  const steps = field.config.thresholds?.steps ?? [];
  return steps.flatMap((step, n) => {
    const start = step.value ?? low;
    if (start > high) return [];
    const shapes = [];
    if (/area/.test(mode)) shapes.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0: Math.max(low, start), y1: Math.min(high, steps[n + 1]?.value ?? high), fillcolor: transparent(named(step.color), 0.09), line: { width: 0 }, layer: "below" });
    if (/line|dashed/.test(mode) && step.value !== null && step.value >= low) shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: start, y1: start, line: { color: transparent(named(step.color), 0.75), width: 1, dash: /dashed/.test(mode) ? "dash" : "solid" } });
    return shapes;
  });
}

function lines(mark, at, strength) {
  const color = named(mark.color);
  const upright = (ms) => ({ type: "line", yref: "paper", y0: 0, y1: 1, x0: at(ms), x1: at(ms), line: { color: transparent(color, strength), width: 1, dash: "dot" } });
  if (!(mark.timeEnd > mark.time)) return [upright(mark.time)];
  return [upright(mark.time), upright(mark.timeEnd), { type: "rect", yref: "paper", y0: 0, y1: 1, x0: at(mark.time), x1: at(mark.timeEnd), fillcolor: transparent(color, 0.08), line: { width: 0 }, layer: "below" }];
}

const flag = (mark, at) => ({ x: at(mark.time), y: 0, yref: "paper", yanchor: "bottom", text: "▲", showarrow: false, font: { size: 7, color: named(mark.color) }, hovertext: "" });

function tooltip({ marks, host, spec }, shown, ms, pointer) {
  const rows = shown
    .map(({ field, times, color }) => ({ field, color, value: field.values[nearest(times, ms)] ?? null }))
    .filter(({ value, field }) => value !== null && !field.config.custom?.hideFrom?.tooltip);
  const sort = spec.options?.tooltip?.sort;
  if (sort === "desc") rows.sort((a, b) => b.value - a.value);
  if (sort === "asc") rows.sort((a, b) => a.value - b.value);
  const { from, to } = host.range();
  const near = marks.filter((mark) => Math.abs(mark.time - ms) < (to - from) / 80);
  showTip(pointer.clientX, pointer.clientY,
    h("time", {}, stamp(ms, host.zone)),
    rows.slice(0, 16).map(({ field, color, value }) => h("div.line", {}, h("i.swatch", { style: { background: color } }), h("span", {}, field.title), h("b", {}, display(field, value, host.zone).text))),
    rows.length > 16 ? h("p.quiet", {}, `and ${rows.length - 16} more`) : null,
    near.slice(0, 6).map((mark) => h("div.mark", { style: { borderColor: named(mark.color) } }, h("b", {}, mark.title), mark.text ? h("p", {}, mark.text) : null)),
    near.length > 6 ? h("p.quiet", {}, `and ${near.length - 6} more marks`) : null);
}

/** The row whose moment is closest, by halving. */
function nearest(times, ms) {
  let [low, high] = [0, times.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (times[middle] <= ms) low = middle;
    else high = middle;
  }
  return Math.abs((times[low] ?? Infinity) - ms) <= Math.abs((times[high] ?? Infinity) - ms) ? low : high;
}

function drawLegend(chart, legend) {
  const { series, memory, spec, host } = chart;
  const calcs = spec.options?.legend?.calcs ?? [];
  const titles = series.map(({ field }) => field.title);
  const shownNow = () => titles.filter((title) => !memory.hidden.has(title));
  const click = (title, several) => {
    const alone = shownNow().length === 1 && shownNow()[0] === title;
    if (several) memory.hidden.has(title) ? memory.hidden.delete(title) : memory.hidden.add(title);
    else memory.hidden = new Set(alone ? [] : titles.filter((each) => each !== title));
    drawLegend(chart, legend);
    chart.redraw();
  };
  put(legend, series.filter(({ field }) => !field.config.custom?.hideFrom?.legend).map(({ field, color }) =>
    h("button", { class: memory.hidden.has(field.title) ? "off" : "", title: `${field.title}: click for it alone, Ctrl-click to hide it`, onclick: (event) => click(field.title, event.ctrlKey || event.metaKey) },
      h("i.swatch", { style: { background: color } }), h("span", {}, field.title),
      calcs.map((calc) => h("b", {}, display(field, reduce(field, calc), host.zone).text)))));
}
