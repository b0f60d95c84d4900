// A stream of server-sent events. An EventSource would do, but for the token: it sends no header.

import { Failure, failureOf, token } from "./api.js";

/** Longest text of one event that is kept while it arrives. */
const MAX_EVENT = 64 << 20;
/** The server says something every ten seconds at least. */
const SILENCE_MS = 30000;

/**
 * Reads events until the stream ends or `signal` is given. Calls `opened` once there is a stream, and `each(name, data)` for
 * every event. Resolves when the server closes the stream; throws a `Failure` if it refuses.
 */
export async function events(path, parameters, { signal, opened, each }) {
  const silence = new AbortController();
  const stopped = AbortSignal.any([signal, silence.signal]);
  let timer = 0;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE_MS);
  };
  try {
    await follow(path, parameters, { signal, stopped, opened, each, heard });
  } finally {
    clearTimeout(timer);
  }
}

async function follow(path, parameters, { signal, stopped, opened, each, heard }) {
  heard();
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  const secret = token();
  const headers = { accept: "text/event-stream", ...(secret ? { authorization: `Bearer ${secret}` } : {}) };
  let answer;
  try {
    answer = await fetch(query ? `${path}?${query}` : path, { headers, cache: "no-store", credentials: "same-origin", redirect: "manual", signal: stopped });
  } catch {
    if (signal.aborted) return;
    throw unreachable();
  }
  if (!answer.ok) throw failureOf(answer.status, await answer.text());
  opened();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    let part;
    try {
      part = await reader.read();
    } catch {
      if (signal.aborted) return;
      throw unreachable();
    }
    if (part.done) return;
    heard();
    // Only what is new can hold the end of an event, but for a line end that was cut in two.
    let from = Math.max(0, rest.length - 1);
    rest += part.value;
    let begin = 0;
    for (let end = rest.indexOf("\n\n", from); end >= 0; end = rest.indexOf("\n\n", from)) {
      give(rest.slice(begin, end), each);
      begin = from = end + 2;
    }
    rest = rest.slice(begin);
    if (rest.length > MAX_EVENT) throw new Failure(0, "This change is too large to be shown", "Give a prefix, or leave the values out.");
  }
}

function unreachable() {
  return new Failure(0, "The server cannot be reached", "It may have stopped, or the network is down. The console keeps trying.");
}

function give(block, each) {
  let [name, data] = ["message", ""];
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data) each(name, JSON.parse(data));
}
