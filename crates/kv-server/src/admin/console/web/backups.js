// Backups are made by a command, and stand in a place that servers do not know. So this screen gives the commands, with the
// addresses of this cluster.

import { card, copy, h, show, state } from "./dom.js";

const PLACE = /^(s3:\/\/[^\s/]+(\/\S*)?|file:\/\/\/\S+|\/\S.*)$/;

export function mount(root, context) {
  const place = h("input", { id: "place", value: "/backups/a", autocomplete: "off", spellcheck: "false", required: true, oninput: () => draw() });
  const problem = h("p", { class: "field-error", role: "alert" });
  const body = h("div");
  show(root,
    card(null, h("p", {}, "A backup holds the rows of all families at one version. It is made while others read and write, and stands in a place outside the cluster: a directory, or an S3-compatible store."),
      h("p", { class: "dim" }, "The servers do not know which backups exist; the place does: “What exists” asks it. Users, roles, tokens and configuration files are not in a backup."),
      h("div", { class: "fields" }, h("div", { class: "field grow" }, h("label", { for: "place" }, "Place: a directory, or s3://BUCKET/PREFIX"), place)), problem),
    body);
  let drawn = "";
  const draw = () => {
    const text = place.value.trim();
    const isValid = PLACE.test(text);
    show(problem, !isValid && "Give a directory that begins with /, or s3://BUCKET/PREFIX.");
    if (!isValid) return;
    const given = { place: text, ...addresses(context) };
    const key = JSON.stringify(given);
    if (key === drawn) return;
    drawn = key;
    show(body, drawCommands(given));
  };
  draw();
  return context.onStatus(({ data }) => { if (data) draw(); });
}

/** The addresses of the cluster, as far as this identity may know them. */
function addresses(context) {
  const status = context.status.data;
  const of = (name) => (status?.replicas ?? []).map((replica) => replica[name]).filter(Boolean).join(",");
  return {
    thrift: of("thrift"), admin: of("admin") || location.host, mode: status?.mode ?? null,
    hasUsers: Boolean(status?.access.enabled || context.session.user), encrypted: location.protocol === "https:",
  };
}

/** A word of a command, for a POSIX shell. */
export function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

function drawCommands(given) {
  const place = quoted(given.place);
  const isStore = given.place.startsWith("s3://");
  const store = isStore ? " --credentials /etc/synodkv/s3.env" : "";
  const identity = `${given.encrypted ? " --ca ca.pem" : ""}${given.hasUsers ? " --token-file backup.token" : ""}`;
  const cluster = `${given.thrift ? ` --addr ${given.thrift}` : ""} --admin ${given.admin}${identity}`;
  const replicated = given.mode === "replicated";
  const target = replicated ? " --config cluster.toml --node-id 0" : "";
  const steps = [
    ["Try out the place", "Once, before you rely on it: permissions, the clock, the speed.", `synodkv backup check ${place}${store}`],
    ["Make a backup", "Reads from a secondary where there is one; writes never wait for it. Exit status 0: the backup exists, complete.", `synodkv backup create --to ${place}${store}${cluster}`],
    ["What exists", "Versions, times and sizes of the backups in the place.", `synodkv backup list ${place}${store}`],
    ["Check that it can be restored", "Every byte and every row of the newest one.", `synodkv backup verify ${place}${store}`],
    ["Remove old ones", "Never the newest. --dry-run lists what would go.", `synodkv backup prune ${place}${store} --keep 14d`],
  ];
  const restore = [
    [replicated ? "A new cluster" : "A new server", replicated
      ? "Into an empty directory, on each machine: the first prints a token (--founding) for the others."
      : "Into an empty directory.", `synodkv restore --from ${place}${store} --data-dir /var/lib/synodkv${target}`],
    ["A range, into this cluster", "Makes the keys from user/ up to user0 what they were. --dry-run writes nothing.",
      `synodkv restore --from ${place}${store} --into ${given.thrift || "HOST:PORT"}${identity} --range user/ user0 --overwrite`],
  ];
  return [card("Make and keep backups", drawSteps(steps),
    isStore && h("p", { class: "dim" }, "s3.env holds lines such as AWS_ACCESS_KEY_ID=…, and only its owner may read it."),
    given.hasUsers && h("p", { class: "dim" }, "The user of backup.token needs the right to read all families, and admin:status."),
    given.encrypted && h("p", { class: "dim" }, "ca.pem is the authority that signed the certificates of the servers.")),
  card("Restore", drawSteps(restore)),
  !given.thrift && card(null, state("The addresses for clients are not known to this identity: that needs the verb admin:status. Add --addr HOST:PORT to the commands."))];
}

function drawSteps(steps) {
  return steps.map(([title, text, command]) => h("div", { class: "step" }, h("h3", {}, title), h("p", { class: "dim" }, text),
    h("div", { class: "command" }, h("code", { tabindex: "0" }, command),
      h("button", { type: "button", class: "quiet", "aria-label": `Copy: ${title}`, onclick: () => copy(command) }, "Copy"))));
}
