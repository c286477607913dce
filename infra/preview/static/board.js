// One board: its variables, its grid of panels, what happened (annotations), and when it asks again.

import * as api from "./api.js";
import { h, put } from "./dom.js";
import { Panel } from "./panel.js";
import { boardState, update } from "./state.js";
import { duration, resolve, unzoned } from "./time.js";
import { Variables } from "./variables.js";

export class Board {
  constructor(spec, view, place, go) {
    Object.assign(this, { spec, view, place, go });
    this.uid = spec.uid;
    this.zone = spec.timezone === "utc" ? "utc" : "browser";
    this.variables = new Variables(spec, (role, name) => this.question(role, name, 1000), () => this.changed());
    this.panels = [];
    this.memories = new Map();
    this.folded = new Set();
    this.timer = 0;
    this.frozen = resolve(boardState().range) ?? resolve({ from: "now-6h", to: "now" });
    this.observer = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => target.panel.seen(isIntersecting)), { rootMargin: "240px 0px" });
  }

  /** Draw the frame, fill the variables, then the panels in sight. */
  async open() {
    const shown = boardState();
    this.refreshEvery = shown.refresh ?? this.spec.refresh ?? "";
    this.lay();
    await this.choose();
    this.refresh();
    this.schedule();
  }

  /** Choices of the variables; those that the board made itself go into the address, which is what links hand on. */
  async choose(again = false) {
    clearInterval(this.watching);
    document.documentElement.dataset.idle = "no";
    await this.variables.load(again);
    update({ variables: this.variables.values() }, true);
    this.bar?.();
  }

  /** The address changed, the board did not. */
  async sync() {
    const { panel, range } = boardState();
    if (!range) update({ range: { from: this.spec.time.from, to: this.spec.time.to } }, true);
    if (panel !== this.viewed) this.lay();
    await this.choose();
    this.refresh();
    this.schedule();
  }

  lay() {
    this.panels.forEach((panel) => panel.close());
    this.observer.disconnect();
    this.viewed = boardState().panel;
    const all = this.spec.panels.flatMap((panel) => [panel, ...(panel.panels ?? [])]);
    const alone = this.viewed === null ? null : all.find((panel) => panel.id === this.viewed);
    if (alone) {
      const panel = this.panel(alone);
      panel.element.classList.add("alone");
      put(this.place, h("div.alone", {}, panel.element));
      this.panels = [panel];
    } else {
      this.panels = [];
      put(this.place, sections(all).map((section) => this.section(section)));
    }
    this.panels.forEach((panel) => this.observer.observe(panel.element));
  }

  section({ title, panels, collapsed }) {
    const top = Math.min(...panels.map((panel) => panel.gridPos.y));
    const drawn = panels.map((spec) => {
      const panel = this.panel(spec);
      const { x, y, w, h: height } = spec.gridPos;
      Object.assign(panel.element.style, { gridColumn: `${x + 1} / span ${w}`, gridRow: `${y - top + 1} / span ${height}` });
      return panel;
    });
    this.panels.push(...drawn);
    const grid = h("div.grid", {}, drawn.map((panel) => panel.element));
    if (title === null) return grid;
    const closed = this.folded.has(title) || (collapsed && !this.folded.has(`open ${title}`));
    const details = h("details.row", { open: !closed }, h("summary", {}, title), grid);
    details.addEventListener("toggle", () => {
      this.folded.delete(details.open ? title : `open ${title}`);
      this.folded.add(details.open ? `open ${title}` : title);
    });
    return details;
  }

  panel(spec) {
    const panel = new Panel(spec, this.host());
    panel.element.panel = panel;
    return panel;
  }

  /** What a panel may ask of its board. */
  host() {
    return {
      zone: this.zone,
      viewed: this.viewed,
      question: (role, name, points) => this.question(role, name, points),
      annotations: () => this.annotations(),
      watch: () => this.watch(),
      range: () => this.frozen,
      select: (from, to) => this.select(from, to),
      zoomOut: () => this.zoomOut(),
      view: (id) => { update({ panel: id }); this.sync(); },
      memory: (id, start) => this.memory(id, start),
      moment: (drawn) => unzoned(typeof drawn === "number" ? drawn : Date.parse(`${String(drawn).replace(" ", "T")}Z`), this.zone),
      go: this.go,
    };
  }

  memory(id, start) {
    if (!this.memories.has(id)) this.memories.set(id, start);
    return this.memories.get(id);
  }

  question(role, name, points) {
    return { board: this.uid, role, name, points, ...this.frozen, variables: this.variables.values(), as: this.view };
  }

  /** Marks of all annotations, asked once for all panels. One that fails is left out, and said once. */
  annotations() {
    this.marks ??= Promise.all((this.spec.annotations?.list ?? []).filter((each) => each.enable !== false).map(async ({ name, iconColor }) => {
      try {
        const { meta, data } = await api.ask(this.question("annotation", name, 1000), this.abort.signal);
        return data.map((row) => mark(Object.fromEntries(meta.map((column, at) => [column.name, row[at]])), iconColor)).filter(({ time }) => time > 0);
      } catch (error) {
        if (!api.gone(error)) this.complaint?.(`annotation ${name}: ${error.message}`);
        return [];
      }
    })).then((lists) => lists.flat());
    return this.marks;
  }

  /** Ask everything in sight again, at a new "now". */
  refresh() {
    this.abort?.abort();
    this.abort = new AbortController();
    this.frozen = resolve(boardState().range) ?? this.frozen;
    this.marks = null;
    this.asked = Date.now();
    this.panels.forEach((panel) => panel.refresh());
    this.watch();
  }

  /** Tells tests and screenshots when everything in sight is drawn. */
  watch() {
    const page = document.documentElement;
    page.dataset.idle = "no";
    clearInterval(this.watching);
    this.watching = setInterval(() => {
      const busy = this.panels.some((panel) => panel.visible && ["waiting", "loading", "reloading"].includes(panel.element.dataset.state));
      const drawing = this.panels.some((panel) => panel.element.dataset.state === "shown" && panel.element.querySelector(".plot:empty"));
      const seen = !this.panels.length || this.panels.some((panel) => panel.visible);
      if (!busy && !drawing && seen && api.idle()) {
        page.dataset.idle = "yes";
        clearInterval(this.watching);
      }
    }, 60);
  }

  changed() {
    update({ variables: this.variables.values() });
    this.bar?.();
    this.refresh();
  }

  setRange(range) {
    update({ range });
    this.frozen = resolve(range) ?? this.frozen;
    this.choose(true).then(() => this.refresh());
    this.bar?.();
  }

  select(from, to) {
    if (to - from >= 1000) this.setRange({ from: String(Math.round(from)), to: String(Math.round(to)) });
  }

  zoomOut() {
    const { from, to } = this.frozen;
    const half = (to - from) / 2;
    this.select(from - half, Math.min(Date.now() + 60000, to + half));
  }

  setRefresh(text) {
    this.refreshEvery = text;
    update({ refresh: text });
    this.schedule();
  }

  schedule() {
    clearInterval(this.timer);
    const every = duration(this.refreshEvery);
    if (every) this.timer = setInterval(() => this.tick(), Math.max(5000, every));
  }

  /** Time to ask again? Not for a range that has ended, and not behind a hidden tab. */
  tick() {
    const every = duration(this.refreshEvery);
    const moving = /now/.test(boardState().range.to);
    if (every && moving && !document.hidden && Date.now() - this.asked >= every - 500) this.refresh();
  }

  redraw() {
    this.panels.forEach((panel) => panel.draw());
  }

  close() {
    clearInterval(this.timer);
    clearInterval(this.watching);
    this.abort?.abort();
    this.observer.disconnect();
    this.panels.forEach((panel) => panel.close());
  }
}

/** Panels under each row title; those before the first stand under none. */
function sections(panels) {
  const found = [{ title: null, panels: [], collapsed: false }];
  for (const panel of panels) {
    if (panel.type === "row") found.push({ title: panel.title, panels: [], collapsed: Boolean(panel.collapsed) });
    else found.at(-1).panels.push(panel);
  }
  return found.filter((section) => section.panels.length);
}

function mark(row, color) {
  const ms = (value) => (value === null || value === undefined ? null : typeof value === "number" ? value : Date.parse(/(Z|[-+]\d\d:?\d\d)$/.test(value) ? value : `${value.replace(" ", "T")}Z`));
  return { time: ms(row.time), timeEnd: ms(row.timeEnd ?? row.timeend), title: row.title ?? "", text: row.text ?? "", tags: row.tags ?? "", color };
}
