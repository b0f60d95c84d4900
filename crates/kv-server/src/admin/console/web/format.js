// Numbers and times for people.

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(value) {
  if (value === null || value === undefined) return "–";
  return number.format(value);
}

function scaled(value, base, units, digits = 3) {
  let at = 0;
  let rest = Math.abs(value);
  while (rest >= base && at < units.length - 1) { rest /= base; at += 1; }
  const text = rest >= 100 || Number.isInteger(rest) ? rest.toFixed(0) : rest.toPrecision(Math.min(digits, rest < 1 ? 2 : 3));
  return `${value < 0 ? "−" : ""}${Number(text)}${units[at]}`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  return scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]);
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.001) return scaled(value * 1e6, 1e9, [" µs"]);
  if (value < 1) return scaled(value * 1e3, 1e9, [" ms"]);
  return scaled(value, 1e9, [" s"]);
}

/** A time span in the two largest units. */
export function span(value) {
  if (value === null || value === undefined) return "–";
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let rest = Math.floor(value);
  const shown = [];
  for (const [unit, size] of parts) {
    const many = Math.floor(rest / size);
    rest -= many * size;
    if (many > 0) shown.push(`${many} ${unit}`);
    if (shown.length === 2) break;
  }
  return shown.join(" ") || "0 s";
}

/** A value of a series, by its unit. */
export function figure(value, unit) {
  if (value === null || value === undefined) return "–";
  switch (unit) {
    case "bytes": return bytes(value);
    case "bytes_per_second": return `${bytes(value)}/s`;
    case "per_second": return `${scaled(value, 1000, ["", "k", "M"])}/s`;
    case "seconds": return seconds(value);
    default: return scaled(value, 1000, ["", "k", "M", "G"]);
  }
}

export function clock(milliseconds) {
  return new Date(milliseconds).toLocaleTimeString("en-GB");
}
