// All figures over time, and the page of metrics as Prometheus reads it.

import { getText, repeat } from "./api.js";
import { card, choice, failure, h, show, state } from "./dom.js";
import { Charts, Series } from "./chart.js";

export function mount(root, context) {
  if (!context.session.may_see_status) {
    show(root, state("Seeing the metrics needs the verb admin:status."));
    return () => {};
  }
  const [figures, raw] = [h("div"), h("div")];
  let task = null;
  const begin = (step) => {
    task?.stop();
    const [series, charts] = [new Series(step), new Charts()];
    show(figures, state("Loading …"));
    let isShown = false;
    task = repeat(async (isOver) => {
      try {
        await series.load();
        if (isOver()) return;
        charts.draw(series);
        if (!isShown) show(figures, charts.element);
        isShown = true;
      } catch (error) {
        if (isOver()) return;
        isShown = false;
        show(figures, failure(error, () => task.now()));
      }
    }, step === 1 ? 2000 : 10000);
  };
  show(root, h("section", { class: "card" },
    h("div", { class: "row between" }, h("h2", {}, "Figures of this process"), choice("Time shown", [[1, "10 min"], [10, "1 h"]], 1, begin)), figures),
  card("All metrics", raw));
  begin(1);
  drawRaw(raw);
  return () => task.stop();
}

/** The lines of the page: name, labels, value; and the help of each name. */
export function parsePage(page) {
  const help = new Map();
  const rows = [];
  for (const line of page.split("\n")) {
    if (line.startsWith("# HELP ")) {
      const [, name, text] = /^# HELP (\S+) (.*)$/.exec(line) ?? [];
      if (name) help.set(name, text);
    } else if (line && !line.startsWith("#")) {
      const [, name, labels, value] = /^([^\s{]+)(\{.*\})? (\S+)/.exec(line) ?? [];
      if (name) rows.push({ name, labels: labels ?? "", value });
    }
  }
  return { help, rows };
}

function drawRaw(root) {
  const body = h("div");
  let page = { help: new Map(), rows: [] };
  const search = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter the metrics", oninput: () => draw() });
  const draw = () => {
    const wanted = search.value.trim().toLowerCase();
    const rows = page.rows.filter(({ name, labels }) => !name.endsWith("_bucket") && `${name}${labels}`.toLowerCase().includes(wanted));
    if (rows.length === 0) return show(body, state("No metric is like this."));
    show(body, h("div", { class: "scroll raw" }, h("table", {}, h("tbody", {}, rows.map(({ name, labels, value }) =>
      h("tr", { title: page.help.get(name) ?? "" }, h("th", { scope: "row" }, h("code", {}, name, h("span", { class: "dim" }, labels))), h("td", { class: "number" }, value)))))));
  };
  const load = async () => {
    show(body, state("Loading …"));
    try {
      page = parsePage(await getText("/metrics"));
      draw();
    } catch (error) {
      show(body, failure(error, load));
    }
  };
  show(root, h("div", { class: "fields" }, h("div", { class: "field grow" }, search), h("button", { type: "button", onclick: load }, "Read again"),
    h("span", { class: "dim" }, "Prometheus reads them at ", h("code", {}, "/metrics"), ".")), body);
  load();
}
