// What happened to one key lately, newest first, out of the journal of changes.

import { get } from "./api.js";
import { failure, h, pill, show, state } from "./dom.js";
import { bytes as size, count, span } from "./format.js";
import { valueView } from "./valueview.js";
import { escaped, fromBase64 } from "./values.js";

const PREVIEW = 60;
const KINDS = { set: ["good", "set"], delete: ["bad", "deleted"], clear: ["bad", "range cleared"] };

/** A part that is closed until somebody opens it. `open` shows all rows at the version of an entry. */
export function drawHistory(view, open) {
  const body = h("div", { "aria-live": "polite" });
  let isLoaded = false;
  return h("details", {
    class: "history", ontoggle: (event) => {
      if (!event.target.open || isLoaded) return;
      isLoaded = true;
      load(body, view, open, null);
    },
  }, h("summary", {}, "History"), body);
}

async function load(body, view, open, after) {
  show(body, state("Reading the changes …"));
  const again = () => load(body, view, open, after);
  try {
    const found = await get("/console/api/history", { family: view.family, key: view.key, after });
    show(body, drawEntries(found, open, (from) => load(body, view, open, from)), h("div", { class: "row" },
      h("button", { type: "button", onclick: again }, "Read again")));
  } catch (error) {
    show(body, failure(error, again), h("div", { class: "state" }, advice(error, () => load(body, view, open, null))));
  }
}

function advice(error, restart) {
  if (error.status === 403) return h("p", { class: "dim" }, "The history of a key needs the verbs read and watch for it.");
  if (error.status === 410) return h("button", { type: "button", onclick: restart }, "Read from the oldest change there is");
  return null;
}

function drawEntries(found, open, loadAfter) {
  const { entries } = found;
  const about = h("p", { class: "dim" }, `Changes between version ${found.since} and version ${found.through} of the log, as far as this server keeps them. `,
    found.left_out > 0 && `Only the newest ${count(entries.length)} are shown; ${count(found.left_out)} older ones are left out. `);
  const more = !found.is_complete && h("div", { class: "obstacle" }, "There is more to read than fits in one answer. ",
    h("button", { type: "button", onclick: () => loadAfter(String(found.through)) }, "Read on"));
  if (entries.length === 0) return [more, state("This key has not changed in that time."), about];
  return [more, h("ol", { class: "history-list", "aria-label": "Versions of this key, newest first" },
    entries.map((entry, at) => drawEntry(entry, entries[at + 1], open))), about];
}

function drawEntry(entry, before, open) {
  const [kind, text] = KINDS[entry.type] ?? ["", entry.type];
  const bytes = entry.value === null ? null : fromBase64(entry.value);
  const seconds = before && (entry.log_time_ms - before.log_time_ms) / 1000;
  const since = before && `${seconds < 1 ? "Less than a second" : span(seconds)} after the one before.`;
  const head = h("span", { class: "history-head" }, pill(kind, text), h("span", {}, `version ${entry.version}`),
    bytes && h("span", { class: "entry-value dim" }, escaped(bytes.subarray(0, PREVIEW)), bytes.length > PREVIEW && "…"),
    bytes && h("span", { class: "dim entry-size" }, size(entry.length)));
  const look = h("button", { type: "button", class: "quiet", onclick: () => open(entry) }, "Show all keys at this version");
  const body = h("div", { class: "history-value" }, since && h("p", { class: "dim" }, since),
    entry.is_cut && h("p", { class: "dim" }, `The first ${size(bytes.length)} are shown.`), bytes && valueView(bytes), look);
  return h("li", {}, h("details", {}, h("summary", {}, head), body));
}
