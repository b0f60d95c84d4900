// The first screen: is everything well, and if not, what is to be done?

import { repeat } from "./api.js";
import { card, choice, failure, h, pill, show, state, update } from "./dom.js";
import { bytes, clock, count, span } from "./format.js";
import { Charts, Series } from "./chart.js";

const FIGURES = ["reads", "writes", "errors", "read_p99", "write_p99", "conflicts", "connections", "log_syncs", "data", "free_space"];

export function mount(root, context) {
  const verdict = h("div");
  const problems = h("div");
  const replicas = h("div");
  const figures = h("div");
  show(root, verdict, problems, replicas, figures);
  if (!context.session.may_see_status) {
    show(verdict, state(`${context.session.user ?? "This identity"} may not see the state of the cluster: that needs the verb admin:status, for example through the role operator or metrics.`));
    return () => {};
  }
  show(verdict, state("Asking for the state of the cluster …"));
  const stopStatus = context.onStatus(({ data, error, at }) => {
    if (!data) return show(verdict, failure(error, context.refresh));
    update(verdict, drawVerdict(data, error, at));
    update(problems, drawProblems(data));
    update(replicas, drawReplicas(data));
  });
  const stopFigures = mountFigures(figures);
  return () => { stopStatus(); stopFigures(); };
}

function drawVerdict(data, error, at) {
  const all = data.replicas.length;
  const healthy = data.replicas.filter((replica) => replica.status === "healthy").length;
  const standalone = data.mode === "standalone";
  const noPrimary = data.primary === null || data.primary === undefined;
  let [kind, title, text] = ["good", "All is well", standalone ? "The server answers." : `${healthy} of ${all} replicas are healthy. Replica ${data.primary} leads.`];
  if (noPrimary) {
    [kind, title, text] = ["bad", "There is no primary", `Reads and writes wait. ${majority(data)} must reach each other to have one. ${unreachable(data)}`];
  } else if (data.cluster_status !== "healthy") {
    kind = data.cluster_status === "degraded" ? "warn" : "bad";
    title = data.cluster_status === "degraded" ? "It works, with less reserve" : "The cluster is unhealthy";
    text = `${healthy} of ${all} replicas are healthy. ${unreachable(data)}`;
  } else if (data.problems.length > 0) {
    [kind, title] = ["warn", data.problems.length === 1 ? "It works, with a problem" : `It works, with ${data.problems.length} problems`];
  }
  if (error) [kind, title, text] = ["bad", error.title, `${error.message} What follows is from ${clock(at)}.`];
  const facts = [
    ["Mode", data.mode], ["Primary", noPrimary ? "none" : standalone ? "this server" : `replica ${data.primary}`],
    !standalone && ["View", count(data.view)], !standalone && ["Epoch of the members", count(data.epoch)],
    ["Feature level", data.next_feature_level ? `${data.feature_level} (${data.next_feature_level} is possible)` : data.feature_level],
    ["Free disk space", bytes(data.free_bytes)], ["Families", count(data.column_families.length)],
    ["Authentication", data.access.enabled ? "on" : "off"],
  ].filter(Boolean);
  return h("section", { class: `card verdict ${kind}` },
    h("div", { class: "verdict-text" }, h("h2", {}, title), h("p", {}, text)),
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
}

function majority(data) {
  const voters = data.replicas.filter((replica) => !replica.observer).length;
  return `${Math.floor(voters / 2) + 1} of ${voters} voters`;
}

function unreachable(data) {
  const away = data.replicas.filter((replica) => !replica.reachable).map((replica) => replica.id);
  return away.length === 0 ? "" : `Not reachable from here: replica${away.length > 1 ? "s" : ""} ${away.join(", ")}.`;
}

/** Problems of this process, and what it knows about those of others, each once. */
export function problemsOf(data) {
  const own = data.problems.map(({ kind, replica, text, remedy }) => ({ kind, replica, text, remedy }));
  const others = data.replicas.filter((replica) => replica.problem)
    .map((replica) => ({ kind: replica.problem_kind, replica: replica.id, text: replica.problem, remedy: replica.remedy }));
  return [...own, ...others.filter((one) => !own.some((known) => known.kind === one.kind && known.replica === one.replica))];
}

function drawProblems(data) {
  const all = problemsOf(data);
  if (all.length === 0) return null;
  return card(`Problems (${all.length})`, h("ul", { class: "problems" }, all.map((problem) => h("li", {},
    h("div", { class: "row" }, pill("bad", problem.kind), problem.replica !== null && problem.replica !== undefined ? pill("", `replica ${problem.replica}`) : pill("", "this process")),
    h("p", {}, problem.text),
    problem.remedy && h("p", { class: "remedy" }, h("strong", {}, "What to do: "), problem.remedy)))));
}

const STATUS = { healthy: "good", degraded: "warn", unreachable: "bad" };
const ROLE = { learner: "observer" };

export function lagOf(replica, data) {
  const primary = data.replicas.find((one) => one.id === data.primary);
  const top = primary?.committed ?? Math.max(0, ...data.replicas.map((one) => one.committed ?? 0));
  if (replica.applied === null || replica.applied === undefined) return null;
  return Math.max(0, top - replica.applied);
}

function drawReplicas(data) {
  if (data.mode === "standalone") return null;
  const rows = data.replicas.map((replica) => {
    const lag = lagOf(replica, data);
    const copy = replica.copy && `receives a copy: ${bytes(replica.copy.bytes)}${replica.copy.total_bytes ? ` of ${bytes(replica.copy.total_bytes)}` : ""}`;
    return h("tr", {},
      h("th", { scope: "row" }, `Replica ${replica.id}`, replica.id === data.node_id && h("span", { class: "dim" }, " (this)")),
      h("td", { "data-name": "Role" }, replica.role === "primary" ? pill("lead", "primary") : ROLE[replica.role] ?? replica.role),
      h("td", { "data-name": "State" }, pill(STATUS[replica.status] ?? "", replica.status), copy && h("div", { class: "dim" }, copy)),
      h("td", { "data-name": "Behind", class: "number" }, !replica.reachable ? "–" : lag === null ? "–" : lag === 0 ? "0" : `${count(lag)} entries`),
      h("td", { "data-name": "Up for", class: "number" }, replica.reachable ? span(replica.uptime_seconds) : "–"),
      h("td", { "data-name": "Level", class: "number" }, replica.feature_level ?? "–"),
      h("td", { "data-name": "Console" }, consoleLink(replica, data)));
  });
  return card("Replicas", h("div", { class: "scroll" }, h("table", { class: "stack" },
    h("thead", {}, h("tr", {}, ["Replica", "Role", "State", "Behind", "Up for", "Level", "Console"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows))));
}

export function consoleLink(replica, data) {
  if (!replica.admin) return "–";
  if (replica.id === data.node_id || replica.admin === location.host) return h("span", { class: "dim" }, replica.admin);
  return h("a", { href: `${location.protocol}//${replica.admin}/console/overview`, rel: "noopener" }, replica.admin);
}

function mountFigures(root) {
  const head = h("div", { class: "row between" }, h("h2", {}, "Load of this process"));
  const body = h("div");
  root.append(h("section", { class: "card" }, head, body));
  let task = null;
  const begin = (step) => {
    task?.stop();
    const [series, charts] = [new Series(step, FIGURES), new Charts()];
    show(body, state("Loading …"));
    let first = true;
    task = repeat(async (isOver) => {
      try {
        await series.load();
        if (isOver()) return;
        charts.draw(series);
        if (first) { show(body, charts.element); first = false; }
      } catch (error) {
        if (isOver()) return;
        first = true;
        show(body, failure(error, () => task.now()));
      }
    }, step === 1 ? 2000 : 10000);
  };
  head.append(choice("Time shown", [[1, "10 min"], [10, "1 h"]], 1, begin));
  begin(1);
  return () => task.stop();
}
