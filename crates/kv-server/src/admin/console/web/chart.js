// A small line chart of one series. Gaps in the data are gaps in the line.

import { h, show, svg } from "./dom.js";
import { figure } from "./format.js";
import { get } from "./api.js";

const WIDTH = 300;
const HEIGHT = 64;
const PAD = 3;
/** The fewest points that a chart has room for. */
const SHORTEST = 60;

function segments(points, length, top) {
  const offset = length - points.length;
  const x = (at) => ((at + offset) / Math.max(1, length - 1)) * WIDTH;
  const y = (value) => HEIGHT - PAD - (value / top) * (HEIGHT - 2 * PAD);
  const all = [];
  let current = null;
  points.forEach((value, at) => {
    if (value === null) { current = null; return; }
    if (!current) all.push(current = []);
    current.push([x(at), y(value)]);
  });
  return all;
}

function path(segment) {
  return segment.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

/** Draws a series into an element that it makes once; `update` draws it again. */
export function chart(label, unit) {
  const value = h("strong", {}, "–");
  const range = h("span", { class: "chart-range" });
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const hint = h("span", { class: "chart-hint", hidden: true });
  const element = h("figure", { class: "chart" },
    h("figcaption", {}, h("span", { class: "chart-label" }, label), value), h("div", { class: "chart-area" }, drawing, hint), range);
  let shown = { points: [], length: 1, step: 1 };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const at = Math.round(((event.clientX - box.left) / box.width) * (shown.length - 1)) - (shown.length - shown.points.length);
    const point = shown.points[at];
    hint.hidden = point === undefined;
    if (point === undefined) return;
    const ago = (shown.points.length - 1 - at) * shown.step;
    show(hint, `${figure(point, unit)}, ${ago < 90 ? `${ago} s` : `${Math.round(ago / 60)} min`} ago`);
  });
  drawing.addEventListener("pointerleave", () => { hint.hidden = true; });
  function update(points, most, step) {
    // While there is little to show, it gets the whole width.
    const length = Math.min(most, Math.max(SHORTEST, points.length));
    shown = { points, length, step };
    const known = points.filter((point) => point !== null);
    const last = points.length ? points[points.length - 1] : null;
    const highest = known.reduce((most, point) => Math.max(most, point), 0);
    show(value, last === null && unit === "seconds" && known.length ? "idle" : figure(last, unit));
    show(range, known.length ? `highest ${figure(highest, unit)}` : "no data yet");
    drawing.setAttribute("aria-label", `${label}: now ${figure(last, unit)}, highest ${figure(highest, unit)}`);
    const top = highest > 0 ? highest * 1.08 : 1;
    show(drawing, segments(points, length, top).flatMap((segment) => {
      if (segment.length === 1) return [svg("circle", { cx: segment[0][0], cy: segment[0][1], r: 1.2, class: "chart-dot" })];
      const area = `${path(segment)}L${segment[segment.length - 1][0].toFixed(1)} ${HEIGHT}L${segment[0][0].toFixed(1)} ${HEIGHT}Z`;
      return [svg("path", { d: area, class: "chart-fill" }), svg("path", { d: path(segment), class: "chart-line" })];
    }));
  }
  return { element, update };
}

/** Fetches series, at first all of their points and then only what is newer. */
export class Series {
  constructor(step, names = null) {
    this.step = step;
    this.names = names;
    this.newest = null;
    this.length = 1;
    this.all = new Map();
  }

  async load() {
    const page = await get("/console/api/series", { step: this.step, after: this.newest, names: this.names?.join(",") });
    // A server that started again counts from 0.
    if (this.newest !== null && (page.newest === null || page.newest < this.newest)) {
      this.newest = null;
      this.all.clear();
      return this.load();
    }
    this.length = page.length;
    for (const { name, label, unit, points } of page.series) {
      const old = this.all.get(name)?.points ?? [];
      this.all.set(name, { name, label, unit, points: [...old, ...points].slice(-page.length) });
    }
    this.newest = page.newest;
    return this.all;
  }
}

/** A grid of charts for these series, made at the first data. */
export class Charts {
  constructor() {
    this.element = h("div", { class: "charts" });
    this.charts = new Map();
  }

  draw(series) {
    for (const { name, label, unit, points } of series.all.values()) {
      if (!this.charts.has(name)) {
        const made = chart(label, unit);
        this.charts.set(name, made);
        this.element.append(made.element);
      }
      const { element, update } = this.charts.get(name);
      // A server of the other mode never has this figure.
      element.hidden = points.length > 5 && unit !== "seconds" && points.every((point) => point === null);
      update(points, series.length, series.step);
    }
  }
}
