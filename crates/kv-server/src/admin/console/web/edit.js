// Setting and deleting one key, if the server allows it. An edit says which value was seen, and the server refuses it if the
// key has another one by now.

import { post } from "./api.js";
import { choice, confirmIt, failure, h, note, show, state } from "./dom.js";
import { bytes as size, count } from "./format.js";
import { bytesOf, escaped, fromHex, toHex, utf8 } from "./values.js";

/** Buttons below a value. `found` is the answer that is shown; `act.reload` shows the newest one. */
export function drawEditing(found, view, act) {
  if (!act.session.edits) return null;
  if (view.version) return h("p", { class: "dim" }, "To edit this key, show its newest version.");
  const form = h("div", { "aria-live": "polite" });
  const set = found.is_cut
    ? h("span", { class: "dim" }, "This value is too long to be edited here.")
    : h("button", { type: "button", onclick: () => show(form, drawForm(found, view, act, () => show(form))) }, found.found ? "Edit …" : "Set a value …");
  const remove = found.found && h("button", { type: "button", class: "danger", onclick: () => deleteIt(found, view, act, form) }, "Delete …");
  return h("div", { class: "editing" }, h("div", { class: "row" }, set, remove), form);
}

/** Asks for a key, which need not exist. */
export function newKey(family, open) {
  const input = h("input", { id: "new-key", required: true, autocomplete: "off", spellcheck: "false" });
  const dialog = h("dialog", { class: "dialog", "aria-label": "New key" },
    h("form", { method: "dialog", onsubmit: () => { if (input.value) open(toHex(bytesOf(input.value))); } },
      h("h2", {}, "New key"), h("p", {}, `In the family ${family}. Nothing is written yet.`),
      h("label", { for: "new-key" }, "Key (\\xNN is a byte)"), input,
      h("div", { class: "row end" }, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        h("button", { type: "submit", class: "primary" }, "Go to the key"))));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

function send(found, view, value) {
  const place = new URLSearchParams({ family: view.family, key: found.key });
  return post(`/console/api/key?${place}`, { value: value === null ? null : base64(value), expected: found.hash });
}

/** What can be done about an edit that failed. */
function refused(error, act) {
  const reload = h("button", { type: "button", onclick: act.reload }, "Show the present value");
  if (error.status === 409) return [failure(error), h("div", { class: "state" }, reload)];
  if (error.status === 403) return failure(error);
  if (error.status === 0 || error.status >= 500) {
    return [failure(error), h("div", { class: "state" }, h("p", {}, "It is not known whether this was written: look at the present value first."), reload)];
  }
  return failure(error);
}

/** A text area changes line ends, and shows no control characters: such values are edited as hexadecimal digits. */
function isPlain(bytes) {
  const text = utf8(bytes);
  return text !== null && new TextEncoder().encode(text).length === bytes.length && !/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/.test(text);
}

function drawForm(found, view, act, close) {
  const old = found.found ? Uint8Array.from(atob(found.value), (letter) => letter.charCodeAt(0)) : new Uint8Array();
  let form = isPlain(old) ? "text" : "hex";
  const shown = (bytes) => (form === "text" ? utf8(bytes) : toHex(bytes));
  const area = h("textarea", { id: "new-value", rows: 8, spellcheck: "false", autocomplete: "off", value: shown(old) });
  const problem = h("p", { class: "field-error", role: "alert" });
  const result = h("div");
  const read = () => {
    if (form === "text") return new TextEncoder().encode(area.value);
    const digits = area.value.replaceAll(/\s/g, "");
    return /^([0-9a-fA-F]{2})*$/.test(digits) ? fromHex(digits) : null;
  };
  const forms = h("div");
  const drawForms = () => show(forms, choice("Entered as", [["text", "Text"], ["hex", "Hex"]], form, (wanted) => {
    const bytes = read();
    if (!bytes || (wanted === "text" && !isPlain(bytes))) {
      show(problem, bytes ? "This value cannot be edited as text: it has bytes that a text field would change." : "Expected pairs of hexadecimal digits.");
      return drawForms();
    }
    form = wanted;
    show(problem);
    area.value = shown(bytes);
  }));
  drawForms();
  const submit = async (event) => {
    event.preventDefault();
    const value = read();
    show(problem, !value && "Expected pairs of hexadecimal digits.");
    if (!value) return;
    const sizes = found.found ? `It has ${count(found.length)} bytes now, and will have ${count(value.length)}.` : `It does not exist yet, and will have ${count(value.length)} bytes.`;
    const isSure = await confirmIt("Write this value?", [h("p", { class: "value-name" }, escaped(fromHex(found.key))),
      h("p", {}, `In the family ${view.family}. ${sizes} Nothing is written if it has changed since it was shown.`)], "Write");
    if (!isSure) return;
    button.disabled = true;
    show(result, state("Writing …"));
    try {
      const done = await send(found, view, value);
      note(`Written at version ${done.version}.`, "good");
      act.reload();
    } catch (error) {
      button.disabled = false;
      show(result, refused(error, act));
    }
  };
  const button = h("button", { type: "submit", class: "primary" }, "Write …");
  queueMicrotask(() => area.focus());
  return h("form", { class: "edit-form", onsubmit: submit },
    h("div", { class: "row between" }, h("label", { for: "new-value" }, `New value (at most ${size(1 << 20)})`), forms),
    area, problem, h("div", { class: "row" }, button, h("button", { type: "button", onclick: close }, "Cancel")), result);
}

async function deleteIt(found, view, act, result) {
  const name = escaped(fromHex(found.key));
  const typed = h("input", { id: "typed-key", autocomplete: "off", spellcheck: "false" });
  const isSure = await confirmIt("Delete this key?", [
    h("p", {}, `Its value of ${count(found.length)} bytes goes. Nothing happens if it has changed since it was shown.`),
    h("p", { class: "value-name" }, name), h("label", { for: "typed-key" }, "Type the key"), typed], "Delete");
  if (!isSure) return;
  if (toHex(bytesOf(typed.value)) !== found.key) return note("That is another key: nothing was deleted.", "bad");
  show(result, state("Deleting …"));
  try {
    const done = await send(found, view, null);
    note(`Deleted at version ${done.version}.`, "good");
    act.reload();
  } catch (error) {
    show(result, refused(error, act));
  }
}
