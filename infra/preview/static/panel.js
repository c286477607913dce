// One panel: its frame, its questions, and what it says when there is nothing to draw.

import * as api from "./api.js";
import { csv } from "./csv.js";
import { h, hideTip, popover, put } from "./dom.js";
import { configure, empty, frame } from "./frames.js";
import { markdown } from "./markdown.js";
import { bargauge } from "./kinds/bargauge.js";
import { heatmap } from "./kinds/heatmap.js";
import { stat } from "./kinds/stat.js";
import { table } from "./kinds/table.js";
import { timeline } from "./kinds/timeline.js";
import { timeseries } from "./kinds/timeseries.js";
import { transformed } from "./transform.js";

const KINDS = { timeseries, stat, table, bargauge, heatmap, "state-timeline": timeline };

/** A panel in its place. ``host`` gives: question(role, name, points), annotations(), watch(), zone, range(), select(range), view(id). */
export class Panel {
  constructor(spec, host) {
    this.spec = spec;
    this.host = host;
    this.stale = true;
    this.visible = false;
    this.abort = null;
    this.drawn = null;
    this.fields = null;
    this.body = h("div.body");
    this.element = h(
      `section.panel.${spec.type}`,
      { id: `panel-${spec.id}`, tabindex: "-1", "aria-label": spec.title || undefined, dataset: { state: "waiting" }, style: { "--height": height(spec) } },
      this.head(),
      this.body,
    );
    if (spec.type === "text") this.still(markdown(spec.options?.content ?? ""));
    else if (!KINDS[spec.type]) this.still(h("p.quiet", {}, `A ${spec.type} panel is not in the preview; Grafana shows it.`));
  }

  head() {
    const { spec } = this;
    if (!spec.title && !spec.description) return null;
    const menu = h("button.icon.menu", { title: "View, SQL, CSV", "aria-label": `Menu of ${spec.title}`, onclick: (event) => this.menu(event.currentTarget) }, "⋯");
    const about = spec.description
      ? h("button.icon.about", { "aria-label": `What ${spec.title} means`, title: "What it means, what to do", onclick: (event) => this.about(event.currentTarget) }, "i")
      : null;
    return h("header", {}, h("h2", { title: spec.title }, spec.title), about, h("span.busy", { "aria-hidden": "true" }), KINDS[spec.type] ? menu : null);
  }

  about(button) {
    popover(button, h("div.description", {}, markdown(this.spec.description)), "wide");
  }

  menu(button) {
    const viewed = this.host.viewed === this.spec.id;
    const act = (label, action) => h("button", { onclick: () => { document.querySelector(".popover")?.close(); action(); } }, label);
    popover(button, h("div.choices", {}, [
      act(viewed ? "Back to the board" : "View alone", () => this.host.view(viewed ? null : this.spec.id)),
      act("Show the SQL", () => this.showSql(button)),
      act("Save as CSV", () => csv(this.spec.title, this.fields ?? [], this.host.zone)),
      act("Ask again", () => this.load()),
    ]));
  }

  async showSql(button) {
    try {
      const texts = await Promise.all(this.targets().map(async (target) => (await api.sql(this.host.question("panel", this.name(target), this.points()))).sql));
      const text = texts.join(";\n\n");
      const copy = h("button.small", { onclick: () => navigator.clipboard?.writeText(text).then(() => put(copy, "copied")) }, "copy");
      popover(button, [h("div.bar", {}, h("b", {}, "As the store is asked"), copy), h("pre.sql", {}, text)], "wide");
    } catch (error) {
      popover(button, h("p.error", {}, error.message));
    }
  }

  targets() {
    return (this.spec.targets ?? []).filter((target) => !target.hide);
  }

  name(target) {
    return `${this.spec.id}.${target.refId}`;
  }

  points() {
    return Math.max(50, Math.round(this.body.clientWidth || 600));
  }

  /** Ask and draw, now if it is in sight, else when it comes into sight. */
  refresh() {
    this.stale = true;
    if (this.visible) this.load();
  }

  seen(visible) {
    this.visible = visible;
    if (visible && this.stale) this.load();
  }

  async load() {
    if (!KINDS[this.spec.type]) return;
    this.abort?.abort();
    const abort = new AbortController();
    this.abort = abort;
    this.stale = false;
    this.host.watch();
    this.state(this.fields ? "reloading" : "loading");
    try {
      const asked = this.targets().map(async (target) =>
        frame(await api.ask(this.host.question("panel", this.name(target), this.points()), abort.signal), target.format, target.refId));
      const [marks, ...frames] = await Promise.all([this.spec.type === "timeseries" ? this.host.annotations() : [], ...asked]);
      if (abort.signal.aborted) return;
      const { frames: shaped, unknown } = transformed(frames, this.spec.transformations ?? []);
      if (unknown) throw new Error(`the transformation "${unknown}" is not in the preview; Grafana shows this panel`);
      this.fields = configure(shaped.flat(), this.spec.fieldConfig);
      this.marks = marks;
      this.draw();
    } catch (error) {
      if (abort.signal.aborted || api.gone(error)) return;
      this.fail(error);
    }
  }

  draw() {
    if (!this.fields) return;
    this.drawn?.();
    this.drawn = null;
    if (empty(this.fields)) {
      put(this.body, h("p.nothing", {}, this.spec.fieldConfig?.defaults?.noValue ?? "no data"));
      this.state("empty");
      return;
    }
    try {
      this.drawn = KINDS[this.spec.type]({ spec: this.spec, fields: this.fields, marks: this.marks, body: this.body, host: this.host }) ?? null;
      this.state("shown");
    } catch (error) {
      console.error(error);
      this.fail(new Error(`drawing failed: ${error.message}`));
    }
  }

  fail(error) {
    this.drawn?.();
    this.drawn = null;
    this.fields = null;
    put(this.body, h("div.failed", { role: "alert" }, h("p", {}, error.message), h("button.small", { onclick: () => this.load() }, "ask again")));
    this.state("failed");
  }

  still(content) {
    put(this.body, content);
    this.stale = false;
    this.state("shown");
  }

  state(name) {
    this.element.dataset.state = name;
  }

  close() {
    this.abort?.abort();
    this.drawn?.();
    hideTip();
  }
}

/** Grafana's rows of 30 px with 8 between. */
const height = ({ gridPos = {} }) => `${(gridPos.h ?? 8) * 38 - 8}px`;
