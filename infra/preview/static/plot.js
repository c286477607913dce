// The chart library, loaded once and when first needed, and what every drawing with it shares.

import { css } from "./colors.js";

const CONFIG = { displayModeBar: false, responsive: false, doubleClick: false, showTips: false };
let loading = null;

export function library() {
  loading ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = document.querySelector("meta[name=charts]").content;
    script.onload = () => done(globalThis.Plotly);
    script.onerror = () => failed(new Error("the chart library did not load"));
    document.head.append(script);
  });
  return loading;
}

/** Draw into an element; returns a promise of the plot. ``events``: name to handler. */
export async function plot(element, traces, layout, events = {}) {
  const plotly = await library();
  if (!element.isConnected) return null;
  await plotly.newPlot(element, traces, layout, CONFIG);
  for (const [name, handler] of Object.entries(events)) element.on(name, handler);
  return plotly;
}

/** Layout of a drawing of that size. */
export function layout(element, { xaxis, yaxis, margin, ...rest }) {
  const quiet = css("--quiet");
  const axis = { color: quiet, gridcolor: css("--grid"), zeroline: false, showline: false, ticks: "", fixedrange: true, automargin: false };
  return {
    width: Math.max(60, element.clientWidth),
    height: Math.max(40, element.clientHeight),
    margin: { l: 44, r: 10, t: 9, b: 20, pad: 0, ...margin },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: css("--font"), size: 11, color: quiet },
    showlegend: false,
    hoverdistance: -1,
    hovermode: "x",
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, ...yaxis },
    ...rest,
  };
}

/** Space for the texts of an axis on the left. */
export const room = (texts) => Math.min(150, 10 + Math.max(2, ...texts.map((each) => each.length)) * 6.4);

/** Draw again when the panel's size changes. Returns what ends the watch. */
export function onResize(element, redraw) {
  let width = element.clientWidth;
  let height = element.clientHeight;
  let timer = 0;
  const observer = new ResizeObserver(() => {
    if (Math.abs(element.clientWidth - width) < 2 && Math.abs(element.clientHeight - height) < 2) return;
    [width, height] = [element.clientWidth, element.clientHeight];
    clearTimeout(timer);
    timer = setTimeout(redraw, 80);
  });
  observer.observe(element);
  return () => {
    clearTimeout(timer);
    observer.disconnect();
  };
}
