// Which keys are used most, and which requests were slow, at this server.

import { get, repeat } from "./api.js";
import { card, choice, failure, h, pill, show, state, update } from "./dom.js";
import { bytes as size, clock, count, seconds } from "./format.js";
import { pathOfKey } from "./keys.js";
import { escaped, fromAscii, toHex } from "./values.js";

const EVERY_MS = 4000;
/** Bytes of a key that the server keeps; one that is as long may be the begin of a longer one. */
const KEPT = { top: 256, slow: 64 };

export function mount(root, context) {
  if (!context.session.may_change_members) {
    show(root, state(`${context.session.user ?? "This identity"} may not see this, because it shows keys of everybody: that needs the verb admin:member, for example through the role operator.`));
    return () => {};
  }
  const [hot, slow] = [h("section", { class: "card" }), h("section", { class: "card" })];
  show(root, hot, slow);
  const tasks = [mountHot(hot, context), mountSlow(slow)];
  return () => tasks.forEach((stop) => stop());
}

/** Loads into `body` now and again. Returns the task. */
function keepLoading(body, load, draw) {
  show(body, state("Loading …"));
  const task = repeat(async (isOver) => {
    try {
      const found = await load();
      if (!isOver()) update(body, draw(found));
    } catch (error) {
      if (!isOver()) show(body, failure(error, () => task.now()));
    }
  }, EVERY_MS);
  return task;
}

/** A key that leads to its value; one that may be cut off leads to the keys that begin like it. */
function keyLink(family, text, kept) {
  const bytes = fromAscii(text);
  if (bytes.length === 0) return h("span", { class: "dim" }, "–");
  const shown = h("span", { class: "entry-name" }, escaped(bytes), bytes.length >= kept && "…");
  const path = bytes.length >= kept
    ? `/console/keys?${new URLSearchParams({ family, prefix: toHex(bytes), flat: "1" })}`
    : pathOfKey(family, toHex(bytes));
  return h("a", { href: path, "data-screen": "keys" }, shown);
}

function table(names, rows) {
  return h("div", { class: "scroll" }, h("table", { class: "stack" },
    h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)));
}

const USES = { reads: "read", writes: "written", conflicts: "named by a conflict" };

function mountHot(root, context) {
  let [by, family, task] = ["reads", "", null];
  const body = h("div");
  const begin = () => {
    task?.stop();
    task = keepLoading(body, () => get("/top", { by, family: family || null, limit: 10 }), drawHot);
  };
  const families = h("select", { id: "hot-family", onchange: () => { family = families.value; begin(); } },
    h("option", { value: "" }, "all families"), (context.session.column_families ?? []).map((name) => h("option", { value: name }, name)));
  show(root, h("div", { class: "row between" }, h("h2", {}, "Hot keys"), h("div", { class: "row" },
    choice("Keys by", [["reads", "Reads"], ["writes", "Writes"], ["conflicts", "Conflicts"]], by, (value) => { by = value; begin(); }),
    h("label", { for: "hot-family" }, "Family"), families)), body);
  begin();
  return () => task.stop();
}

function drawHot(found) {
  const { keys } = found;
  const about = h("p", { class: "dim" }, `The last ${count(found.seconds)} s at this server. `, found.sampled_one_in > 1 && `One request in ${found.sampled_one_in} is counted, so figures are estimates. `,
    h("code", {}, `synodkv top --by ${found.by}`), " adds up those of all servers.");
  if (keys.length === 0) return [state(`No key was ${USES[found.by]} often enough to be counted.`), about];
  const most = keys[0].count;
  const rows = keys.map((one) => h("tr", {},
    h("th", { scope: "row" }, keyLink(one.family, one.key, KEPT.top)),
    h("td", { "data-name": "Family" }, one.family),
    h("td", { "data-name": "Per second", class: "number" }, one.per_second),
    h("td", { "data-name": "Count", class: "number", title: `at least ${one.at_least}` }, count(one.count)),
    h("td", { "data-name": "Share", class: "share" }, h("meter", { min: 0, max: most, value: one.count, "aria-label": `${Math.round(100 * one.count / most)} % of the first` }))));
  return [table(["Key", "Family", "Per second", "Count", "Compared with the first"], rows), about];
}

function mountSlow(root) {
  const body = h("div");
  show(root, h("h2", {}, "Slow requests"), body);
  const task = keepLoading(body, () => get("/slow", { limit: 100 }), drawSlow);
  return () => task.stop();
}

function drawSlow({ all, requests, slow_ms: limit }) {
  if (limit === 0) return state("Slow requests are not watched: log.slow_ms = 0.");
  if (requests.length === 0) return state(`No request at this server took ${limit} ms or longer since it started.`);
  const rows = requests.map((one) => h("tr", {},
    h("th", { scope: "row" }, h("span", { title: new Date(one.time_ms).toISOString() }, clock(one.time_ms))),
    h("td", { "data-name": "Took", class: "number" }, seconds(one.duration_ms / 1000)),
    h("td", { "data-name": "Request" }, h("code", {}, one.method)),
    h("td", { "data-name": "First key" }, keyLink(one.family, one.key, KEPT.slow), one.key && h("span", { class: "dim" }, ` ${one.family}`)),
    h("td", { "data-name": "Size", class: "number" }, size(one.bytes)),
    h("td", { "data-name": "From" }, one.principal && h("span", {}, one.principal, " "), h("span", { class: "dim" }, one.address ?? "this server")),
    h("td", { "data-name": "Result" }, one.error ? pill("bad", one.error) : pill("good", "ok"))));
  return [table(["Ended", "Took", "Request", "First key", "Size", "From", "Result"], rows),
    h("p", { class: "dim" }, `${count(all)} took ${limit} ms (log.slow_ms) or longer since this server started; the newest ${count(requests.length)} are shown.`)];
}
