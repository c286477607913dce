// The page: which board, whose view, which range; everything else is the board's.

import * as api from "./api.js";
import { drawBar } from "./bar.js";
import { Board } from "./board.js";
import { forceTheme, onTheme } from "./colors.js";
import { h, hideTip, put } from "./dom.js";
import { boardState, readAddress, update } from "./state.js";

const place = document.getElementById("board");
let listed = null;
let shown = null;

async function start() {
  forceTheme(new URLSearchParams(location.search).get("theme"));
  try {
    listed = await api.boards();
    await open();
  } catch (error) {
    complain(error);
  }
  addEventListener("popstate", () => open().catch(complain));
  document.addEventListener("click", followed);
  onTheme(() => shown?.redraw());
  addEventListener("visibilitychange", () => !document.hidden && shown?.tick());
}

/** Show what the address says. */
async function open() {
  const state = readAddress();
  document.documentElement.dataset.idle = "no";
  hideTip();
  document.querySelector(".popover")?.close();
  document.documentElement.classList.toggle("kiosk", state.kiosk);
  if (!listed.boards.length) throw new Error("there is no board: `python -m infra.grafana.generate` makes them");
  const entry = listed.boards.find(({ uid }) => uid === state.uid || uid === `gpufleet-${state.uid}`);
  if (!entry && state.uid) {
    drawBar(listed, null, go);
    throw new Error(`there is no board ${state.uid} in this view`);
  }
  const wanted = entry ?? listed.boards[0];
  const view = wanted.audience === "customer" ? state.view || listed.tenants[0] || "" : "";
  if (shown && shown.uid === wanted.uid && shown.view === view) {
    await shown.sync();
  } else {
    shown?.close();
    shown = null;
    put(place, h("p.quiet.opening", {}, "…"));
    const spec = await api.board(wanted.uid);
    const time = spec.time ?? { from: "now-6h", to: "now" };
    update({ uid: wanted.uid, view, range: state.range ?? { from: time.from, to: time.to } }, true);
    document.title = `${spec.title} · gpufleet`;
    shown = new Board(spec, view, place, go);
    await shown.open();
  }
  drawBar(listed, shown, go);
}

/** To another address of this page, without loading it anew. */
function go(address) {
  history.pushState(null, "", address);
  scrollTo(0, 0);
  open().catch(complain);
}

function followed(event) {
  const anchor = event.target.closest?.("a[href]");
  if (!anchor || event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const address = new URL(anchor.href, location.href);
  if (address.origin !== location.origin || !/^\/(d\/|$)/.test(address.pathname) || anchor.target === "_blank") return;
  event.preventDefault();
  go(address.pathname + address.search);
}

function complain(error) {
  if (api.gone(error)) return;
  shown?.close();
  shown = null;
  document.documentElement.dataset.idle = "yes";
  put(place, h("div.failed.page", { role: "alert" }, h("p", {}, error.message), boardState().uid ? h("a", { href: "/" }, "to the first board") : null));
}

start();
