// Browsing keys: a family, folders below a prefix, one value at a version. The server decides which
// keys this identity may read; a prefix within its rights is all that it needs.

import { Failure, get } from "./api.js";
import { card, choice, failure, h, pill, show, state } from "./dom.js";
import { drawEditing, newKey } from "./edit.js";
import { bytes as size, count } from "./format.js";
import { drawHistory } from "./history.js";
import { valueView } from "./valueview.js";
import { bytesOf, escaped, fromBase64, fromHex, isText, toHex, utf8 } from "./values.js";

const PAGE = 100;
const SEPARATOR = "/".charCodeAt(0);

/** What is shown stands in the address, so that it can be passed on and "back" works. */
function fromAddress() {
  const given = new URLSearchParams(location.search);
  return {
    family: given.get("family") ?? "default", prefix: given.get("prefix") ?? "", key: given.get("key"),
    version: given.get("version") ?? "", flat: given.get("flat") === "1",
  };
}

function addressOf(view) {
  const shown = { family: view.family, prefix: view.prefix, key: view.key, version: view.version, flat: view.flat ? "1" : "" };
  return `/console/keys?${new URLSearchParams(Object.entries(shown).filter(([, value]) => value))}`;
}

/** The address of one key, in the list of those beside it. */
export function pathOfKey(family, key, version = "") {
  const bytes = fromHex(key);
  const prefix = toHex(bytes.subarray(0, bytes.lastIndexOf(SEPARATOR) + 1));
  return addressOf({ family, prefix, key, version, flat: false });
}

export function mount(root, context) {
  const view = fromAddress();
  const [controls, list, value] = [h("div"), h("div", { class: "list" }), h("div", { class: "value" })];
  show(root, controls, h("div", { class: "browser" }, list, value));
  let isOver = false;
  const open = (change) => context.go(addressOf({ ...view, ...change }));
  show(controls, drawControls(view, context, open));
  const alive = () => !isOver;
  loadList(list, view, open, alive);
  loadValue(value, view, open, alive, context);
  return () => { isOver = true; };
}

function drawControls(view, context, open) {
  const families = context.session.column_families;
  const family = families
    ? h("select", { id: "family", onchange: () => open({ family: family.value, prefix: "", key: null }) },
      [...new Set([...families, view.family])].map((name) => h("option", { value: name, selected: name === view.family }, name)))
    : h("input", { id: "family", value: view.family, onchange: () => open({ family: family.value, prefix: "", key: null }) });
  const prefix = h("input", { id: "prefix", type: "search", value: escaped(fromHex(view.prefix)), placeholder: "all keys", autocomplete: "off", spellcheck: "false" });
  const version = h("input", { id: "version", value: view.version, placeholder: "newest", inputmode: "numeric", autocomplete: "off", list: "versions" });
  const isValid = () => /^([1-9][0-9]*|stale|)$/.test(version.value.trim());
  version.addEventListener("input", () => version.setCustomValidity(isValid() ? "" : "A version: 1 or more; stale: what this server has; empty: the newest"));
  const submit = (event) => {
    event.preventDefault();
    open({ prefix: toHex(bytesOf(prefix.value)), version: version.value.trim(), key: view.key });
  };
  return h("form", { class: "card fields", onsubmit: submit },
    h("div", { class: "field" }, h("label", { for: "family" }, "Family"), family),
    h("div", { class: "field grow" }, h("label", { for: "prefix" }, "Prefix (\\xNN is a byte)"), prefix),
    h("div", { class: "field" }, h("label", { for: "version" }, "At version"), version,
      h("datalist", { id: "versions" }, h("option", { value: "stale" }, "what this server has, without asking the others"))),
    h("button", { type: "submit", class: "primary" }, "Show"),
    context.session.edits && h("button", { type: "button", onclick: () => newKey(view.family, (key) => open({ key, version: "" })) }, "New key …"),
    choice("Form of the list", [["tree", "Folders"], ["flat", "All keys"]], view.flat ? "flat" : "tree", (form) => open({ flat: form === "flat" })));
}

function crumbs(view, open) {
  const bytes = fromHex(view.prefix);
  const parts = [h("a", { href: addressOf({ ...view, prefix: "", key: null }), onclick: go("", open) }, view.family)];
  let begin = 0;
  for (let at = 0; at < bytes.length; at += 1) {
    if (bytes[at] !== SEPARATOR && at !== bytes.length - 1) continue;
    const prefix = toHex(bytes.subarray(0, at + 1));
    parts.push(h("span", { class: "dim", "aria-hidden": "true" }, "›"),
      h("a", { href: addressOf({ ...view, prefix, key: null }), onclick: go(prefix, open) }, escaped(bytes.subarray(begin, at + 1))));
    begin = at + 1;
  }
  return h("nav", { class: "crumbs", "aria-label": "Place" }, parts);
}

function go(prefix, open) {
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open({ prefix, key: null });
  };
}

/** What else can be done about a failed read. */
function advice(error, view, open) {
  if (!(error instanceof Failure)) return null;
  if (error.status === 403) {
    return h("p", { class: "dim" }, "Give a prefix within the keys that this identity may read.");
  }
  if (error.status === 410) {
    return h("button", { type: "button", onclick: () => open({ version: "" }) }, "Show the newest version");
  }
  if ((error.status === 503 || error.status === 504) && view.version !== "stale") {
    return h("div", {}, h("p", { class: "dim" }, "Without a majority nobody knows the newest state. What this server has can still be read; it may be old."),
      h("button", { type: "button", onclick: () => open({ version: "stale" }) }, "Show what this server has"));
  }
  return null;
}

async function loadList(root, view, open, alive) {
  const rows = h("ul", { class: "keys-list" });
  const more = h("div");
  const head = h("p", { class: "dim" });
  show(root, card(null, crumbs(view, open), head, rows, more));
  let shown = 0;
  const load = async (after) => {
    show(more, state(after ? "Loading more …" : "Reading …"));
    try {
      const page = await get("/console/api/keys", {
        family: view.family, prefix: view.prefix, after, limit: PAGE, version: view.version || null, delimiter: view.flat ? "" : null,
      });
      if (!alive()) return;
      rows.append(...page.entries.map((entry) => drawEntry(entry, view, open)));
      shown += page.entries.length;
      show(head, page.version === null ? pill("warn", "may be old") : `At version ${page.version}. `, ` ${count(shown)}${page.next ? " so far" : ""} ${shown === 1 ? "entry" : "entries"}`);
      if (shown === 0) return show(more, state(view.prefix ? "No key begins like this." : "This family is empty."));
      show(more, page.next && h("button", { type: "button", class: "wide-button", onclick: () => load(page.next) }, "Show more"));
    } catch (error) {
      if (!alive()) return;
      show(more, failure(error, () => load(after)), h("div", { class: "state" }, advice(error, view, open)));
    }
  };
  load(null);
}

function drawEntry(entry, view, open) {
  const isFolder = entry.kind === "folder";
  const name = escaped(fromHex(entry.key.slice(view.flat ? 0 : view.prefix.length))) || escaped(fromHex(entry.key));
  const target = isFolder ? { prefix: entry.key, key: null } : { key: entry.key };
  const link = h("a", {
    href: addressOf({ ...view, ...target }), class: isFolder ? "folder" : "key", "aria-current": entry.key === view.key ? "true" : null,
    onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      open(target);
    },
  }, h("span", { class: "entry-icon", "aria-label": isFolder ? "folder" : "key", role: "img" }, isFolder ? "▸" : "•"), h("span", { class: "entry-name" }, name),
  !isFolder && h("span", { class: "entry-value dim" }, preview(entry)), !isFolder && h("span", { class: "entry-size dim" }, size(entry.length)));
  return h("li", {}, link);
}

function preview(entry) {
  const bytes = fromBase64(entry.preview);
  const end = entry.length > bytes.length ? "…" : "";
  // A character may be cut in two at the end.
  const readable = [0, 1, 2, 3].map((cut) => bytes.subarray(0, bytes.length - (end ? cut : 0))).find(isText);
  return `${readable ? utf8(readable).replaceAll(/\s+/g, " ") : toHex(bytes.subarray(0, 16))}${end}`;
}

async function loadValue(root, view, open, alive, context) {
  if (!view.key) return show(root, h("section", { class: "card" }, state("Choose a key to see its value.")));
  show(root, card(null, state("Reading …")));
  const load = async () => {
    try {
      const found = await get("/console/api/key", { family: view.family, key: view.key, version: view.version || null });
      if (!alive()) return;
      show(root, drawValue(found, view, open, context));
      if (matchMedia("(max-width: 800px)").matches) root.scrollIntoView({ block: "start" });
    } catch (error) {
      if (alive()) show(root, card(null, failure(error, load), h("div", { class: "state" }, advice(error, view, open))));
    }
  };
  load();
}

function drawValue(found, view, open, context) {
  const name = escaped(fromHex(found.key));
  const title = h("h2", { class: "value-name" }, name);
  const version = found.version === null ? pill("warn", "may be old") : h("span", { class: "dim" }, `at version ${found.version}`);
  const close = h("button", { type: "button", class: "quiet", "aria-label": "Close the value", onclick: () => open({ key: null }) }, "✕");
  const head = h("div", { class: "row between top" }, h("div", {}, title, version), close);
  const editing = drawEditing(found, view, { session: context.session, reload: () => open({ key: found.key }) });
  const past = drawHistory(view, (entry) => open({ version: String(entry.version) }));
  if (!found.found) return h("section", { class: "card" }, head, state("There is no such key at this version."), editing, past);
  const bytes = fromBase64(found.value);
  return h("section", { class: "card" }, head,
    h("p", {}, `${count(found.length)} bytes`, found.is_cut && `; the first ${size(bytes.length)} are shown`),
    valueView(bytes), editing, past);
}
