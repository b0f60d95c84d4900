// Bytes in the forms that people store in them.

export function fromHex(text) {
  const bytes = new Uint8Array(text.length / 2);
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = parseInt(text.slice(2 * at, 2 * at + 2), 16);
  return bytes;
}

export function toHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** The text of these bytes; null if they are no UTF-8. */
export function utf8(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/;

/** Whether a person can read it as text. */
export function isText(bytes) {
  const text = utf8(bytes);
  return text !== null && !CONTROL.test(text);
}

/**
 * Text that stands for exactly these bytes: what cannot be read is \xNN, and a backslash is \\, as
 * in the shell of SynodKV. `bytesOf` turns it back.
 */
export function escaped(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length;) {
    const length = lengthOfCharacter(bytes, at);
    const part = length ? utf8(bytes.subarray(at, at + length)) : null;
    if (part === null || CONTROL.test(part) || part === "\n" || part === "\t" || part === "\r") {
      text += `\\x${bytes[at].toString(16).padStart(2, "0")}`;
      at += 1;
    } else {
      text += part === "\\" ? "\\\\" : part;
      at += length;
    }
  }
  return text;
}

function lengthOfCharacter(bytes, at) {
  const first = bytes[at];
  const length = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc2 ? 2 : 0;
  return at + length <= bytes.length ? length : 0;
}

/** The bytes of what somebody typed: text, with \xNN for a byte and \\ for a backslash. */
export function bytesOf(text) {
  const parts = [];
  const encoder = new TextEncoder();
  const pattern = /\\x([0-9a-fA-F]{2})|\\\\|[^\\]+|\\/g;
  for (const [part, hex] of text.matchAll(pattern)) {
    if (hex) parts.push(Number.parseInt(hex, 16));
    else parts.push(...encoder.encode(part === "\\\\" ? "\\" : part));
  }
  return Uint8Array.from(parts);
}

const NAMED = { t: 9, r: 13, n: 10, "'": 39, '"': 34, "\\": 92 };

/** The bytes of a key as the lists of hot keys and of slow requests show it: \xNN, \n and the like, ASCII otherwise. */
export function fromAscii(text) {
  const pattern = /\\x([0-9a-f]{2})|\\([trn'"\\])|([^\\])/g;
  return Uint8Array.from(text.matchAll(pattern), ([, hex, name, plain]) =>
    hex ? Number.parseInt(hex, 16) : name ? NAMED[name] : plain.charCodeAt(0));
}

export function json(bytes) {
  const text = utf8(bytes);
  if (text === null) return null;
  try {
    // Numbers beyond 2^53 would change: such a text is shown as it is.
    if (/[0-9]{16,}/.test(text)) { JSON.parse(text); return text; }
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return null;
  }
}

function big(bytes) {
  return bytes.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
}

/** The integers that up to 16 bytes can stand for. */
export function integers(bytes) {
  if (bytes.length === 0 || bytes.length > 16) return null;
  const bits = BigInt(bytes.length * 8);
  const signed = (value) => (value >> (bits - 1n) ? value - (1n << bits) : value);
  const little = big(Array.from(bytes).reverse());
  const first = big(bytes);
  const all = [["unsigned, little-endian", little], ["signed, little-endian", signed(little)],
    ["unsigned, big-endian", first], ["signed, big-endian", signed(first)]];
  const text = utf8(bytes);
  if (text !== null && /^-?[0-9]+$/.test(text)) all.unshift(["decimal text", text]);
  return all.map(([name, value]) => [name, value.toString()]);
}

/** Lines of 16 bytes: place, hexadecimal, text. */
export function hexDump(bytes, most = 16384) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, most); at += 16) {
    const line = bytes.subarray(at, at + 16);
    const hex = Array.from(line, (byte) => byte.toString(16).padStart(2, "0"));
    const left = hex.slice(0, 8).join(" ").padEnd(23);
    const right = hex.slice(8).join(" ").padEnd(23);
    const text = Array.from(line, (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${left}  ${right}  ${text}`);
  }
  if (bytes.length > most) lines.push(`… ${bytes.length - most} more bytes`);
  return lines.join("\n");
}

/** The form that tells most about these bytes. */
export function bestForm(bytes) {
  const isObject = /^\s*[[{]/.test(utf8(bytes.subarray(0, 64)) ?? utf8(bytes) ?? "");
  if (isObject && json(bytes) !== null) return "json";
  if (isText(bytes)) return "text";
  return [1, 2, 4, 8].includes(bytes.length) ? "integer" : "hex";
}
