// The members of the cluster, and the two actions that the admin interface offers on them: another
// primary, other members. The conditions of a change of members are always asked first.

import { get, post } from "./api.js";
import { card, choice, confirmIt, copy, failure, h, note, pill, show, state, update } from "./dom.js";
import { count } from "./format.js";
import { consoleLink, lagOf } from "./overview.js";

const READ_ONLY = "This console is read-only: set admin.console_writes = true at this server to act from here, or use the command.";

export function mount(root, context) {
  const session = context.session;
  if (!session.may_see_status) {
    show(root, state(`${session.user ?? "This identity"} may not see the members: that needs the verb admin:status.`));
    return () => {};
  }
  const [list, actions] = [h("div"), h("div")];
  show(root, list, actions);
  let members = null;
  const load = async () => {
    if (!members) show(list, state("Asking for the members …"));
    try {
      members = await get("/members");
      drawAll();
    } catch (error) {
      if (error.status === 409) return show(list, state("A standalone server has no other members.",
        h("p", { class: "dim" }, "docs/OPERATIONS.md describes how to make a replicated cluster of it.")));
      show(list, failure(error, load));
    }
  };
  let drawn = "";
  const drawAll = () => {
    const status = context.status.data;
    if (!members || !status) return;
    update(list, drawMembers(members, status));
    // What somebody is filling in must not be drawn again under their hands.
    const key = JSON.stringify([members.epoch, members.primary, status.primary, status.node_id, members.members.map((one) => [one.id, one.role])]);
    if (key === drawn) return;
    drawn = key;
    show(actions, drawFailover(members, status, context, load), drawChange(members, status, context, load));
  };
  load();
  const timer = setInterval(() => { if (!document.hidden) load(); }, 4000);
  const stop = context.onStatus(({ data, error }) => {
    if (data) return drawAll();
    if (error && !members) show(list, failure(error, context.refresh));
  });
  return () => { clearInterval(timer); stop(); };
}

function drawMembers(members, status) {
  const rows = members.members.map((member) => {
    const replica = status.replicas.find((one) => one.id === member.id);
    const lag = member.lag ?? (replica ? lagOf(replica, status) : null);
    return h("tr", {},
      h("th", { scope: "row" }, `Replica ${member.id}`, member.id === status.node_id && h("span", { class: "dim" }, " (this)")),
      h("td", { "data-name": "Part" }, member.id === members.primary ? pill("lead", "primary") : null, " ", pill("", member.role)),
      h("td", { "data-name": "Reachable" }, member.reachable ? pill("good", "yes") : pill("bad", "no")),
      h("td", { "data-name": "Behind", class: "number" }, lag === null ? "–" : count(lag)),
      h("td", { "data-name": "Peers" }, h("code", {}, member.peer || "–")),
      h("td", { "data-name": "Clients" }, h("code", {}, member.thrift || "–")),
      h("td", { "data-name": "Console" }, replica ? consoleLink(replica, status) : h("code", {}, member.admin || "–")));
  });
  return card("Members",
    h("p", { class: "dim" }, `Epoch ${count(members.epoch)}, since entry ${count(members.since)} of the log.`,
      members.changing && " A change is under way."),
    h("div", { class: "scroll" }, h("table", { class: "stack" },
      h("thead", {}, h("tr", {}, ["Member", "Part", "Reachable", "Behind", "Peers", "Clients", "Console"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows))));
}

function command(text) {
  return h("div", { class: "command" }, h("code", {}, text),
    h("button", { type: "button", class: "quiet", onclick: () => copy(text) }, "Copy"));
}

/** Why the console cannot act here; `null` if it can. */
function obstacle(members, status, session) {
  if (!session.may_change_members) return `${session.user} may not do this: that needs the verb admin:member.`;
  if (!session.writes) return READ_ONLY;
  const isHere = status.node_id === null || status.node_id === undefined || status.node_id === members.primary;
  if (members.primary === null || members.primary === undefined) return "There is no primary, so nobody can do this now.";
  if (!isHere) {
    const primary = status.replicas.find((one) => one.id === members.primary);
    return ["Only the primary does this. Open its console: ", primary ? consoleLink(primary, status) : `replica ${members.primary}`];
  }
  return null;
}

function drawFailover(members, status, context, reload) {
  const targets = members.members.filter((one) => one.role === "voter" && one.id !== members.primary);
  if (targets.length === 0) return null;
  const select = h("select", { id: "target", onchange: () => draw() },
    h("option", { value: "" }, "the one that is furthest along"),
    targets.map((one) => h("option", { value: one.id }, `replica ${one.id}${one.reachable ? "" : " (not reachable)"}`)));
  const shell = h("div");
  const draw = () => show(shell, command(`synodkv failover${select.value ? ` --to ${select.value}` : ""}`));
  draw();
  const stopped = obstacle(members, status, context.session);
  const act = async () => {
    const name = select.value ? `Replica ${select.value}` : "The replica that is furthest along";
    const isSure = await confirmIt("Let another replica lead?", h("p", {}, `${name} becomes primary. Writes pause for a moment; nothing that was acknowledged is lost.`), "Fail over");
    if (!isSure) return;
    button.disabled = true;
    try {
      const done = await post(`/failover${select.value ? `?to=${select.value}` : ""}`);
      note(`Replica ${done.new_primary} leads now (view ${done.view}, pause at most ${done.pause_at_most_ms.toFixed(0)} ms).`, "good");
    } catch (error) {
      note(`${error.title}: ${error.message}`, "bad");
    }
    button.disabled = false;
    context.refresh();
    reload();
  };
  const button = h("button", { type: "button", class: "danger", disabled: Boolean(stopped), onclick: act }, "Fail over …");
  return card("Failover",
    h("p", {}, "Lets another voter lead, for example before work on the machine of the primary."),
    h("div", { class: "row" }, h("label", { for: "target" }, "New primary"), select, button),
    stopped && h("p", { class: "obstacle" }, stopped), shell);
}

const KINDS = [["promote", "Give a vote"], ["demote", "Take the vote"], ["remove", "Remove"], ["add", "Add"]];

function drawChange(members, status, context, reload) {
  const form = h("form", { class: "fields", onsubmit: (event) => { event.preventDefault(); check(); } });
  const result = h("div", { "aria-live": "polite" });
  let kind = "promote";
  const fields = {};
  let isForced = false;
  const drawForm = () => {
    isForced = false;
    show(result);
    const ofRole = { promote: "observer", demote: "voter" }[kind];
    const candidates = members.members.filter((one) => !ofRole || one.role === ofRole);
    if (kind !== "add" && candidates.length === 0) {
      return show(form, h("p", { class: "dim" }, ofRole === "observer" ? "No member is without a vote." : "There is nobody to choose."));
    }
    const inputs = kind === "add" ? addFields(members, fields) : [
      labelled("Member", fields.id = h("select", { id: "member" }, candidates.map((one) => h("option", { value: one.id }, `replica ${one.id}`)))),
    ];
    show(form, inputs, h("button", { type: "submit", class: "primary" }, "Check what that needs"));
  };
  async function check() {
    const wanted = { ...wantedMembers(members, kind, fields), force: isForced };
    show(result, state("Checking …"));
    try {
      const answer = await post("/members?dry_run=1", wanted);
      show(result, drawChecks(answer, wanted));
    } catch (error) {
      show(result, failure(error, check));
    }
  }
  function drawChecks(answer, wanted) {
    // The check of the server says which conditions do not hold, whether or not they are skipped.
    const allowed = answer.checks.every((one) => one.ok || (isForced && one.can_be_forced));
    const stopped = obstacle(members, status, context.session);
    const act = async () => {
      if (!await confirmIt("Change the members?", h("p", {}, describe(kind, fields)), "Change")) return;
      button.disabled = true;
      try {
        const now = await post("/members", wanted);
        note(`Done: epoch ${now.epoch} has ${now.members.length} members.`, "good");
        show(result);
        reload();
      } catch (error) {
        show(result, failure(error, check));
      }
      context.refresh();
    };
    const button = h("button", { type: "button", class: "danger", disabled: Boolean(stopped) || !allowed, onclick: act }, "Change the members …");
    const unmet = answer.checks.filter((one) => !one.ok);
    const mayForce = unmet.length > 0 && unmet.every((one) => one.can_be_forced);
    const force = h("input", { type: "checkbox", id: "force", checked: isForced, onchange: () => { isForced = force.checked; check(); } });
    return h("div", { class: "checks" },
      h("h3", {}, allowed ? "Possible now" : "Not possible now"),
      h("ul", {}, [...unmet, ...answer.checks.filter((one) => one.ok)].map((one) => h("li", { class: one.ok ? "ok" : "no" },
        h("span", { "aria-label": one.ok ? "met" : "not met", role: "img" }, one.ok ? "✓" : "✗"),
        h("div", {}, one.name, one.reason && h("p", { class: "remedy" }, one.reason))))),
      mayForce && h("div", { class: "row" }, force, h("label", { for: "force" }, "Do it although a failure of one more member may then stop the cluster")),
      stopped && h("p", { class: "obstacle" }, stopped),
      h("div", { class: "row" }, button),
      command(`${shellOf(kind, fields)}${isForced ? " --force" : ""}`));
  }
  drawForm();
  return card("Change the members",
    h("p", {}, "Shows first what the change needs. Nothing changes before you confirm it."),
    choice("Change", KINDS, kind, (value) => { kind = value; drawForm(); }), form, result);
}

function labelled(text, input) {
  return h("div", { class: "field" }, h("label", { for: input.id }, text), input);
}

function addFields(members, fields) {
  const free = Math.max(...members.members.map((one) => one.id)) + 1;
  const text = (id, placeholder) => fields[id] = h("input", { id, placeholder, required: true, autocomplete: "off", spellcheck: "false" });
  fields.id = h("input", { id: "member", type: "number", min: "0", required: true, value: String(free) });
  return [labelled("Id", fields.id),
    labelled("Address for peers", text("peer", "host:6000")), labelled("Address for clients", text("thrift", "host:9090")),
    labelled("Admin address", text("admin", "host:9190")),
    h("p", { class: "dim wide" }, "It joins without a vote. Start its server with replication.join = true, and give it a vote once it has caught up.")];
}

/** All members as they should be. */
export function wantedMembers(members, kind, fields) {
  const id = Number(fields.id.value);
  const plain = members.members.map((one) => ({ id: one.id, role: one.role }));
  const change = {
    promote: () => plain.map((one) => (one.id === id ? { ...one, role: "voter" } : one)),
    demote: () => plain.map((one) => (one.id === id ? { ...one, role: "observer" } : one)),
    remove: () => plain.filter((one) => one.id !== id),
    add: () => [...plain, { id, role: "observer", peer: fields.peer.value.trim(), thrift: fields.thrift.value.trim(), admin: fields.admin.value.trim() }],
  };
  return { expected_epoch: members.epoch, members: change[kind]() };
}

function describe(kind, fields) {
  const name = `Replica ${fields.id.value}`;
  return { promote: `${name} gets a vote.`, demote: `${name} loses its vote and goes on following the log.`,
    remove: `${name} leaves the cluster and stops.`, add: `${name} joins without a vote.` }[kind];
}

/** The same as a command. */
function shellOf(kind, fields) {
  const id = fields.id.value;
  if (kind === "add") {
    return `synodkv member add --id ${id} --peer ${fields.peer.value} --thrift ${fields.thrift.value} --admin ${fields.admin.value}`;
  }
  return `synodkv member ${kind} ${id}`;
}
