// All that the console asks of its server. The token stands in a header, and is kept for this tab
// only.

const TOKEN = "synodkv.token";
const TIMEOUT_MS = 15000;

/** A request that failed. `status` is 0 if there was no answer at all. */
export class Failure extends Error {
  constructor(status, title, message, body = null) {
    super(message);
    this.status = status;
    this.title = title;
    this.body = body;
  }
}

export function token() {
  return sessionStorage.getItem(TOKEN);
}

export function setToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

let unauthorized = () => {};
/** Called whenever the server does not accept the identity. */
export function onUnauthorized(call) {
  unauthorized = call;
}

const TITLES = {
  400: "The server does not understand that",
  401: "The server wants a token",
  403: "Not permitted",
  404: "There is no such thing",
  409: "Not possible now",
  410: "That version cannot be read any more",
  503: "The cluster cannot answer now",
  504: "That took too long",
};

/** What an answer with an error says. */
export function failureOf(status, text) {
  let parsed = null;
  try { parsed = JSON.parse(text); } catch { /* Not JSON: shown as it is. */ }
  const failure = new Failure(status, TITLES[status] ?? `The server answered ${status}`, parsed?.error ?? (text || "It gave no reason."), parsed);
  if (status === 401) unauthorized(failure);
  return failure;
}

async function ask(method, path, body) {
  const headers = {};
  const secret = token();
  if (secret) headers.authorization = `Bearer ${secret}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  let text;
  try {
    answer = await fetch(path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body),
      redirect: "manual", cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    text = await answer.text();
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Failure(0, late ? "No answer in time" : "The server cannot be reached",
      late ? "The server took longer than 15 s to answer." : "It may have stopped, or the network is down. The console keeps trying.");
  }
  if (answer.type === "opaqueredirect") {
    throw new Failure(307, "Only the primary does that", "This server is not the primary. Open the console of the primary; the overview links to it.");
  }
  if (!answer.ok) throw failureOf(answer.status, text);
  return text;
}

export async function get(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined);
  const query = new URLSearchParams(given).toString();
  return JSON.parse(await ask("GET", query ? `${path}?${query}` : path));
}

export function getText(path) {
  return ask("GET", path);
}

export async function post(path, body) {
  return JSON.parse(await ask("POST", path, body));
}

/**
 * Calls `load` now and again `every` milliseconds after it ended, while the page is visible.
 * Returns an object with `stop` and `now`.
 */
export function repeat(load, every) {
  let timer = 0;
  let stopped = false;
  let running = false;
  const run = async () => {
    clearTimeout(timer);
    if (stopped || running) return;
    running = true;
    try {
      if (!document.hidden) await load(() => stopped);
    } finally {
      running = false;
      if (!stopped) timer = setTimeout(run, every);
    }
  };
  const seen = () => { if (!document.hidden) run(); };
  document.addEventListener("visibilitychange", seen);
  run();
  return {
    now: run,
    stop() { stopped = true; clearTimeout(timer); document.removeEventListener("visibilitychange", seen); },
  };
}
