// The changes of rows as they happen. While the screen is paused, or the page hidden, no stream is open; the next one
// continues after the last version that was seen, so that nothing is missed as long as the server keeps the changes.

import { failureOf } from "./api.js";
import { choice, failure, h, pill, show, state, update } from "./dom.js";
import { clock, count } from "./format.js";
import { pathOfKey } from "./keys.js";
import { events } from "./stream.js";
import { bytesOf, escaped, fromHex, toHex } from "./values.js";

/** Versions that are shown; older ones leave the page. */
const MAX_SHOWN = 300;
/** Changes of one version that are shown. */
const MAX_OF_VERSION = 50;
const MAX_VALUE = 160;
const RETRY_MS = [500, 1000, 2000, 5000];

function fromAddress() {
  const given = new URLSearchParams(location.search);
  return { family: given.get("family") ?? "", prefix: given.get("prefix") ?? "", after: given.get("after") ?? "", values: given.get("values") !== "0" };
}

function addressOf(view) {
  const shown = { family: view.family, prefix: view.prefix, after: view.after, values: view.values ? "" : "0" };
  const query = new URLSearchParams(Object.entries(shown).filter(([, value]) => value)).toString();
  return `/console/changes${query ? `?${query}` : ""}`;
}

export function mount(root, context) {
  const view = fromAddress();
  const tail = new Tail(view);
  const open = (change) => context.go(addressOf({ ...view, ...change }));
  show(root, drawControls(view, context, open), tail.element);
  const key = (event) => {
    const typing = event.target.closest("input, textarea, select, dialog");
    if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey && event.key === "p") tail.toggle();
  };
  const seen = () => tail.connect();
  document.addEventListener("keydown", key);
  document.addEventListener("visibilitychange", seen);
  tail.connect();
  return () => {
    document.removeEventListener("keydown", key);
    document.removeEventListener("visibilitychange", seen);
    tail.stop();
  };
}

function drawControls(view, context, open) {
  const families = context.session.column_families;
  const family = families
    ? h("select", { id: "family" }, h("option", { value: "", selected: !view.family }, "all families"),
      [...new Set([...families, ...(view.family ? [view.family] : [])])].map((name) => h("option", { value: name, selected: name === view.family }, name)))
    : h("input", { id: "family", value: view.family, placeholder: "all families", autocomplete: "off", spellcheck: "false" });
  const prefix = h("input", { id: "prefix", type: "search", value: escaped(fromHex(view.prefix)), placeholder: "all keys", autocomplete: "off", spellcheck: "false" });
  const after = h("input", { id: "after", value: view.after, placeholder: "now", inputmode: "numeric", autocomplete: "off" });
  after.addEventListener("input", () => after.setCustomValidity(/^([1-9][0-9]*|)$/.test(after.value.trim()) ? "" : "A version: 1 or more; empty: what happens from now on"));
  const submit = (event) => {
    event.preventDefault();
    const wanted = toHex(bytesOf(prefix.value));
    // A prefix is one of keys, and keys lie in a family.
    open({ family: family.value.trim() || (wanted ? "default" : ""), prefix: wanted, after: after.value.trim() });
  };
  return h("form", { class: "card fields", onsubmit: submit },
    h("div", { class: "field" }, h("label", { for: "family" }, "Family"), family),
    h("div", { class: "field grow" }, h("label", { for: "prefix" }, "Prefix (\\xNN is a byte)"), prefix),
    h("div", { class: "field" }, h("label", { for: "after" }, "After version"), after),
    h("button", { type: "submit", class: "primary" }, "Follow"),
    choice("Values", [["1", "Values"], ["0", "Keys only"]], view.values ? "1" : "0", (values) => open({ values: values === "1" })));
}

/** The list, and the stream that fills it. */
class Tail {
  constructor(view) {
    this.view = view;
    this.after = view.after || null;
    this.isPaused = this.isOver = false;
    this.tries = 0;
    this.stream = null;
    this.waiting = [];
    this.drawing = this.retry = 0;
    this.shown = 0;
    this.label = h("span", { role: "status", "aria-live": "polite" });
    this.through = h("span", { class: "dim" });
    this.button = h("button", { type: "button", title: "Pause or continue (key p)", onclick: () => this.toggle() });
    this.clearing = h("button", { type: "button", class: "quiet", onclick: () => this.clear() }, "Clear the list");
    this.message = h("div");
    this.list = h("ol", { class: "changes-list", "aria-label": "Changes, newest first" });
    this.element = h("section", { class: "card" },
      h("div", { class: "row between" }, h("div", { class: "row" }, this.label, this.through), h("div", { class: "row" }, this.button, this.clearing)),
      this.message, this.list);
    this.say("Connecting …", "");
    this.drawButton();
  }

  say(text, kind) {
    update(this.label, pill(kind, text));
  }

  drawButton() {
    update(this.button, this.isPaused ? "Continue" : "Pause");
    this.button.disabled = this.isOver;
  }

  toggle() {
    if (this.isOver) return;
    this.isPaused = !this.isPaused;
    this.drawButton();
    this.connect();
  }

  clear() {
    this.flush();
    this.shown = 0;
    show(this.list);
    this.drawEmpty();
  }

  stop() {
    this.isOver = true;
    clearTimeout(this.retry);
    clearTimeout(this.drawing);
    this.stream?.abort();
  }

  /** Opens a stream if there should be one, and closes it if there should not. */
  connect() {
    clearTimeout(this.retry);
    const isWanted = !this.isPaused && !document.hidden && !this.isOver;
    if (!isWanted) {
      this.stream?.abort();
      this.stream = null;
      if (this.isPaused) this.say("paused", "warn");
      return;
    }
    if (this.stream) return;
    const stream = new AbortController();
    this.stream = stream;
    if (this.tries === 0) this.say("Connecting …", "");
    this.read(stream).then(
      // The server has closed the stream, because it stops or needs the place.
      () => this.again(stream),
      (error) => this.failed(stream, error));
  }

  read(stream) {
    const { family, prefix, values } = this.view;
    return events("/changes", { family, prefix_hex: prefix, after: this.after, values: values ? null : "0" }, {
      signal: stream.signal,
      opened: () => {
        this.tries = 0;
        this.say("live", "good");
        this.drawEmpty();
      },
      each: (name, data) => {
        if (stream.signal.aborted) return;
        if (name === "end") throw endOf(data);
        this.after = String(data.version ?? data.through);
        if (name === "change") this.waiting.push({ ...data, seen: Date.now() });
        if (this.waiting.length > MAX_SHOWN) this.waiting.shift();
        if (!this.drawing) this.drawing = setTimeout(() => this.flush(), 100);
      },
    });
  }

  again(stream) {
    if (this.stream !== stream) return;
    this.stream = null;
    if (this.isOver) return;
    this.retry = setTimeout(() => this.connect(), RETRY_MS[Math.min(this.tries, RETRY_MS.length - 1)]);
    this.tries += 1;
  }

  failed(stream, error) {
    stream.abort();
    if (this.stream !== stream || this.isOver) return;
    this.flush();
    if (error.status === undefined) console.error(error);
    // What passes by itself: no server, no primary, no place for another stream.
    if (error.status === 0 || error.status === 429 || error.status >= 500) {
      this.say("no connection", "bad");
      show(this.message, failure(error));
      return this.again(stream);
    }
    this.stream = null;
    this.isPaused = true;
    this.drawButton();
    this.say("stopped", "bad");
    show(this.message, failure(error, () => this.restart(this.after)), h("div", { class: "state" }, this.advice(error)));
  }

  restart(after) {
    this.after = after;
    this.isPaused = false;
    this.drawButton();
    this.connect();
  }

  /** What else can be done. */
  advice(error) {
    if (error.status === 403) {
      return h("p", { class: "dim" }, "Following changes needs the verbs read and watch for all keys that are followed. Give a family, and a prefix within them.");
    }
    if (error.status !== 410) return null;
    const oldest = error.body?.oldest_version;
    return [h("p", { class: "dim" }, "Changes between these versions are not shown: read the keys to see what they are now."),
      h("div", { class: "row centre" },
        oldest && h("button", { type: "button", onclick: () => this.restart(String(oldest)) }, "Continue with the oldest change there is"),
        h("button", { type: "button", onclick: () => this.restart(null) }, "Continue with what happens now"))];
  }

  drawEmpty() {
    show(this.message, this.shown === 0 && state("Nothing has changed yet. What changes appears here."));
  }

  flush() {
    clearTimeout(this.drawing);
    this.drawing = 0;
    if (this.after) update(this.through, `everything up to version ${this.after}`);
    if (this.waiting.length === 0) return;
    this.list.prepend(...this.waiting.reverse().map((change) => drawChange(change, this.view)));
    this.shown += this.waiting.length;
    this.waiting = [];
    while (this.list.children.length > MAX_SHOWN) this.list.lastChild.remove();
    if (this.stream) this.drawEmpty();
    const left = this.shown - this.list.children.length;
    if (left > 0) this.list.lastChild.after(h("li", { class: "dim" }, `Older ones left the page: only the newest ${count(MAX_SHOWN)} stay.`));
  }
}

const STATUS_OF = { TRANSACTION_TOO_OLD: 410, UNAUTHENTICATED: 401, FORBIDDEN: 403, UNKNOWN_COLUMN_FAMILY: 404, CLUSTER_CHANGED: 409 };

/** A stream that the server ended, as an answer with the same error would be. */
function endOf(data) {
  return failureOf(STATUS_OF[data.error_code] ?? 503, JSON.stringify(data));
}

function drawChange(change, view) {
  const shown = change.changes.slice(0, MAX_OF_VERSION);
  const more = change.changes.length - shown.length;
  return h("li", {},
    h("div", { class: "change-head dim" }, h("span", {}, `version ${change.version}`), h("span", { title: "When it arrived here" }, clock(change.seen))),
    shown.map((one) => drawOperation(one, change.version, view)),
    more > 0 && h("div", { class: "dim" }, `… and ${count(more)} more changes of this version`));
}

const KINDS = { set: ["good", "set"], delete: ["bad", "deleted"], clear: ["bad", "range cleared"] };

function drawOperation(one, version, view) {
  const [kind, text] = KINDS[one.type] ?? ["", one.type];
  const family = one.family !== view.family && h("span", { class: "dim" }, one.family, " ");
  const link = (bytes) => h("a", { class: "entry-name", "data-screen": "keys", href: pathOfKey(one.family, toHex(bytes), String(version)) }, escaped(bytes));
  if (one.type !== "clear") {
    return h("div", { class: "change" }, pill(kind, text), h("span", { class: "change-key" }, family, link(raw(one.key))),
      one.value !== undefined && h("span", { class: "entry-value" }, shortened(raw(one.value))));
  }
  const [begin, end] = [raw(one.begin), one.end === null ? null : raw(one.end)];
  const isAll = begin.length === 0 && end === null;
  return h("div", { class: "change" }, pill(kind, one.cause === "family_dropped" ? "family dropped" : text), h("span", { class: "change-key" }, family,
    h("code", {}, isAll ? "all keys" : `${begin.length ? escaped(begin) : "the first key"} … ${end ? `before ${escaped(end)}` : "the last key"}`)));
}

/** The bytes of a key or a value, which is text or, if it is none, hexadecimal. */
function raw(value) {
  return typeof value === "string" ? new TextEncoder().encode(value) : fromHex(value.hex);
}

function shortened(bytes) {
  const text = escaped(bytes.subarray(0, MAX_VALUE));
  return bytes.length > MAX_VALUE ? `${text}… (${count(bytes.length)} bytes)` : text || "(empty)";
}
