// A board's variables: values from the address, choices from the store; what depends on a changed one is asked again.

import * as api from "./api.js";
import { boardState } from "./state.js";

export class Variables {
  /** ``ask(role, name)`` makes a question; ``changed()`` is called when a person chose. */
  constructor(spec, ask, changed) {
    this.ask = ask;
    this.changed = changed;
    this.list = (spec.templating?.list ?? []).map((entry) => ({
      name: entry.name,
      label: entry.label || entry.name,
      type: entry.type,
      hidden: Boolean(entry.hide),
      dependsOn: entry.dependsOn ?? [],
      free: entry.type === "textbox",
      start: plain(entry.current?.value ?? (entry.type === "query" ? "" : entry.query ?? "")),
      options: (entry.options ?? []).map(({ value, text }) => ({ value: plain(value), text: plain(text) })),
      value: "",
      error: "",
      asked: "",
    }));
    this.take();
  }

  take() {
    const { variables } = boardState();
    for (const each of this.list) each.value = variables[each.name] ?? each.chosen ?? each.start;
  }

  values() {
    return Object.fromEntries(this.list.map(({ name, value }) => [name, value]));
  }

  get shown() {
    return this.list.filter(({ hidden, type }) => !hidden && type !== "constant" && type !== "datasource");
  }

  /** Fetch choices, in order, of those whose question changed since; all with ``again``. */
  async load(again = false) {
    this.take();
    for (const each of this.list) {
      if (each.type !== "query") continue;
      const question = this.ask("variable", each.name);
      const key = JSON.stringify([question.as, each.dependsOn.map((name) => question.variables[name])]);
      if (!again && each.asked === key) continue;
      try {
        const { data } = await api.ask(question);
        each.options = data.map((row) => ({ value: String(row[0] ?? ""), text: String(row[1] ?? row[0] ?? "") }));
        each.error = "";
        each.asked = key;
      } catch (error) {
        if (api.gone(error)) return;
        each.error = error.message;
      }
      // A choice that is gone gives way to the first; one that was typed or linked to stays while nothing above it changed.
      const before = each.value;
      const known = each.options.some(({ value }) => value === before);
      if (!known && each.options.length && (before === "" || each.cascaded)) each.value = each.options[0].value;
      if (each.value !== before) this.below(each.name);
      each.cascaded = false;
      each.chosen = each.value;
    }
    this.drawn?.();
  }

  /** What depends on a variable may have to change with it. */
  below(name) {
    for (const other of this.list) if (other.dependsOn.includes(name)) other.cascaded = true;
  }

  /** A person chose: what depends on it is asked again, and then the panels. */
  async choose(name, value) {
    const each = this.list.find((variable) => variable.name === name);
    each.chosen = boardState().variables[name] = value;
    this.below(name);
    await this.load();
    this.changed();
  }
}

const plain = (value) => String(Array.isArray(value) ? value[0] ?? "" : value ?? "");
