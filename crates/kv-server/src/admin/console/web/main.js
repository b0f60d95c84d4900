// The frame around the screens: navigation, the state of the cluster, the identity.
//
// A screen is a module that exports `mount(root, context)`. It fills `root` and returns a function
// that stops what it started. A new screen needs a file, and a line in SCREENS.

import { Failure, get, onUnauthorized, repeat, setToken, token } from "./api.js";
import { failure, h, note, pill, show, state } from "./dom.js";
import * as overview from "./overview.js";
import * as members from "./members.js";
import * as keys from "./keys.js";
import * as changes from "./changes.js";
import * as load from "./load.js";
import * as backups from "./backups.js";
import * as config from "./config.js";
import * as metrics from "./metrics.js";

const SCREENS = [
  { id: "overview", title: "Overview", icon: "◉", mount: overview.mount },
  { id: "members", title: "Members", icon: "⬡", mount: members.mount },
  { id: "keys", title: "Keys", icon: "⌘", mount: keys.mount },
  { id: "changes", title: "Changes", icon: "⇥", mount: changes.mount },
  { id: "load", title: "Hot and slow", short: "Hot", icon: "▲", mount: load.mount },
  { id: "backups", title: "Backups", icon: "▣", mount: backups.mount },
  { id: "config", title: "Configuration", short: "Settings", icon: "⚙", mount: config.mount },
  { id: "metrics", title: "Metrics", icon: "∿", mount: metrics.mount },
];

const STATUS_EVERY_MS = 2000;
const root = document.getElementById("screen");
const header = document.getElementById("cluster");
const nav = document.getElementById("nav");
const who = document.getElementById("who");

/** What all screens share. */
const context = {
  session: null,
  /** The last answer to /status, or the error instead. */
  status: { data: null, error: null, at: 0 },
  watchers: new Set(),
  /** Calls back now, if there is a status, and with every new one. Returns a function that ends that. */
  onStatus(call) {
    this.watchers.add(call);
    if (this.status.at) call(this.status);
    return () => this.watchers.delete(call);
  },
  go,
  refresh: () => status.now(),
};

const status = repeat(async () => {
  const before = context.status;
  try {
    const data = await get("/status");
    context.status = { data, error: null, at: Date.now() };
  } catch (error) {
    // The last known state stays visible, marked as old.
    context.status = { data: error.status === 401 ? null : before.data, error, at: before.at || Date.now() };
  }
  drawHeader();
  for (const call of [...context.watchers]) call(context.status);
}, STATUS_EVERY_MS);

const HEALTH = { healthy: "good", degraded: "warn", unhealthy: "bad" };

function drawHeader() {
  const { data, error } = context.status;
  const parts = [];
  if (error) {
    const mine = error.status === 401 ? "sign in" : error.status === 403 ? "status not permitted" : "no connection";
    parts.push(pill(error.status === 403 ? "" : "bad", mine));
  } else if (data) {
    const primary = data.primary === null || data.primary === undefined;
    parts.push(pill(HEALTH[data.cluster_status] ?? "", data.cluster_status));
    if (primary) parts.push(pill("bad", "no primary"));
    parts.push(h("span", { class: "cluster-name" }, data.mode === "standalone" ? "standalone" : `this is replica ${data.node_id ?? "–"}`));
  }
  const key = parts.map((part) => part.textContent).join("|");
  // A screen reader speaks only of changes.
  if (header.dataset.key !== key) { header.dataset.key = key; show(header, parts); }
}

// Screens

let stopScreen = () => {};

function screenOfPath() {
  const id = location.pathname.split("/")[2];
  return SCREENS.find((screen) => screen.id === id);
}

function go(path) {
  history.pushState(null, "", path);
  open();
}

function drawNav(current) {
  show(nav, SCREENS.map(({ id, title, short, icon }, at) => h("a", {
    href: `/console/${id}`, "data-screen": id, "aria-current": current?.id === id ? "page" : null, "aria-label": title, title: `${title} (key ${at + 1})`,
  }, h("span", { class: "icon", "aria-hidden": "true" }, icon), h("span", { class: short && "long" }, title), short && h("span", { class: "short", "aria-hidden": "true" }, short))));
  // On a phone the screens are more than fit beside each other.
  nav.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
}

function stop() {
  try { stopScreen(); } catch (error) { console.warn(error); }
  stopScreen = () => {};
}

function open() {
  stop();
  const screen = screenOfPath();
  drawNav(screen);
  document.title = `${screen?.title ?? "Unknown screen"} · SynodKV`;
  if (!screen) {
    return show(root, state(`There is no screen “${location.pathname.split("/")[2]}”.`,
      h("p", {}, h("a", { href: "/console/overview", "data-screen": "overview" }, "Open the overview"))));
  }
  if (!context.session) return;
  show(root, h("h1", {}, screen.title));
  const body = h("div", { class: `body ${screen.id}` });
  root.append(body);
  try {
    stopScreen = screen.mount(body, context) ?? (() => {});
  } catch (error) {
    show(body, failure({ title: "This screen broke", message: String(error) }, open));
    throw error;
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-screen]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
  event.preventDefault();
  go(link.getAttribute("href"));
  root.focus({ preventScroll: true });
  window.scrollTo(0, 0);
});
window.addEventListener("popstate", open);

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const screen = SCREENS[Number(event.key) - 1];
  if (screen) { go(`/console/${screen.id}`); root.focus({ preventScroll: true }); }
  if (event.key === "/") {
    const search = root.querySelector("input[type=search]");
    if (search) { event.preventDefault(); search.focus(); }
  }
});

// The identity

function askForToken(reason) {
  stop();
  const input = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true });
  const problem = h("p", { class: "field-error", role: "alert" }, reason ?? "");
  const form = h("form", { class: "card sign-in", onsubmit: async (event) => {
    event.preventDefault();
    setToken(input.value.trim());
    await begin(true);
  } },
    h("h1", {}, "Sign in"),
    h("p", {}, "This cluster checks who asks. Give a token of a user; ", h("code", {}, "synodkv auth token create"), " makes one. It stays in this tab only."),
    h("label", { for: "token" }, "Token"), input, problem,
    h("div", { class: "row end" }, h("button", { type: "submit", class: "primary" }, "Sign in")));
  show(root, form);
  input.focus();
}

function drawWho() {
  const user = context.session?.user;
  show(who, user ? `${user} · sign out` : token() ? "sign out" : "sign in");
  who.hidden = Boolean(context.session && !user);
}

who.addEventListener("click", () => {
  const wasKnown = Boolean(token());
  setToken(null);
  context.session = null;
  context.status = { data: null, error: null, at: 0 };
  drawWho();
  askForToken(wasKnown ? "You have signed out." : "");
  status.now();
});

let retry = 0;
async function begin(fromForm = false) {
  clearTimeout(retry);
  try {
    context.session = await get("/console/api/session");
  } catch (error) {
    context.session = null;
    drawWho();
    if (error instanceof Failure && error.status === 401) {
      return askForToken(fromForm || token() ? error.message : "");
    }
    if (error.status !== 403) retry = setTimeout(begin, 3000);
    stop();
    return show(root, failure(error, () => begin()));
  }
  drawWho();
  open();
  status.now();
}

// The token may be revoked while a screen is open.
onUnauthorized((error) => {
  if (!context.session) return;
  context.session = null;
  drawWho();
  askForToken(error.message);
});

// Dark and light

const theme = document.getElementById("theme");
const THEME = "synodkv.theme";
function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
}
theme.addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const next = dark === "dark" ? "light" : "dark";
  localStorage.setItem(THEME, next);
  setTheme(next);
});
setTheme(localStorage.getItem(THEME));

window.addEventListener("unhandledrejection", (event) => note(`Something in the console went wrong: ${event.reason}`, "bad"));

drawNav(screenOfPath());
begin();
