// A value in the form that tells most about it, with a choice of the others.

import { choice, copy, h, show, state } from "./dom.js";
import { bestForm, escaped, hexDump, integers, json, toHex, utf8 } from "./values.js";

const FORMS = [["text", "UTF-8"], ["json", "JSON"], ["integer", "Integer"], ["hex", "Hex"]];

export function valueView(bytes) {
  const body = h("div");
  const best = bestForm(bytes);
  const draw = (form) => show(body, drawForm(form, bytes));
  draw(best);
  return h("div", {},
    h("div", { class: "row between" }, choice("Form of the value", FORMS, best, draw),
      h("button", { type: "button", class: "quiet", onclick: () => copy(utf8(bytes) ?? toHex(bytes)) }, "Copy")),
    body);
}

function drawForm(form, bytes) {
  if (bytes.length === 0) return state("The value is empty.");
  if (form === "hex") return h("pre", { class: "dump", tabindex: "0" }, hexDump(bytes));
  if (form === "integer") {
    const all = integers(bytes);
    if (!all) return state("Integers have 1 to 16 bytes.");
    return h("dl", { class: "facts" }, all.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }
  if (form === "json") {
    const text = json(bytes);
    return text === null ? state("This is no JSON.") : h("pre", { tabindex: "0" }, text);
  }
  const text = utf8(bytes);
  return text === null
    ? h("div", {}, h("p", { class: "dim" }, "This is no UTF-8; \\xNN stands for a byte."), h("pre", { tabindex: "0" }, escaped(bytes)))
    : h("pre", { tabindex: "0" }, text);
}
