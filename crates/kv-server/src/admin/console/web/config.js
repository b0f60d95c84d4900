// The settings in force at this server, with their origins.

import { get } from "./api.js";
import { card, choice, failure, h, pill, show, state } from "./dom.js";

export function mount(root, context) {
  if (!context.session.may_see_status) {
    show(root, state("Seeing the configuration needs the verb admin:status."));
    return () => {};
  }
  let [settings, only, isOver] = [[], "all", false];
  const body = h("div");
  const search = h("input", { type: "search", placeholder: "Filter by key, value or origin", "aria-label": "Filter", oninput: () => draw() });
  show(root, h("div", { class: "card fields" }, h("div", { class: "field grow" }, search),
    choice("Which settings", [["all", "All"], ["set", "Set by somebody"]], only, (value) => { only = value; draw(); })), body);
  const draw = () => {
    const wanted = search.value.trim().toLowerCase();
    const shown = settings.filter((one) => (only === "all" || one.is_set)
      && `${one.key} ${text(one.value)} ${one.origin}`.toLowerCase().includes(wanted));
    if (settings.length && shown.length === 0) return show(body, state(wanted ? "No setting is like this." : "Nobody set anything: all values are defaults."));
    const sections = Map.groupBy ? Map.groupBy(shown, sectionOf) : group(shown);
    show(body, [...sections].map(([section, rows]) => card(section ? `[${section}]` : "General", h("div", { class: "scroll" },
      h("table", { class: "settings stack" }, h("tbody", {}, rows.map((one) => h("tr", {},
        h("th", { scope: "row" }, h("code", {}, one.key.slice(section ? section.length + 1 : 0))),
        h("td", { "data-name": "Value" }, h("code", {}, text(one.value))),
        h("td", { "data-name": "From" }, one.is_set ? pill("lead", one.origin) : h("span", { class: "dim" }, one.origin)))))))))
    );
  };
  const load = async () => {
    show(body, state("Loading …"));
    try {
      settings = (await get("/console/api/config")).settings;
      if (!isOver) draw();
    } catch (error) {
      if (!isOver) show(body, failure(error, load));
    }
  };
  load();
  return () => { isOver = true; };
}

function sectionOf({ key }) {
  return key.includes(".") ? key.slice(0, key.lastIndexOf(".")) : "";
}

function group(all) {
  const groups = new Map();
  for (const one of all) groups.set(sectionOf(one), [...(groups.get(sectionOf(one)) ?? []), one]);
  return groups;
}

function text(value) {
  return value === null ? "not set" : typeof value === "string" ? value : JSON.stringify(value);
}
