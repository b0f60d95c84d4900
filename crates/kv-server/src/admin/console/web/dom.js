// Makes elements. Text is always set as text, never as HTML, so that nothing that a client
// stored under some key can become part of the page.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** An HTML element: h("p", { class: "x", onclick: f }, "text", child). */
export function h(name, properties, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** An SVG element. */
export function svg(name, properties, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

/** Replaces what an element holds. */
export function show(element, ...children) {
  element.replaceChildren();
  add(element, children);
}

/** As `show`, but leaves equal content alone, so that a selection in it, or the focus, stays. */
export function update(element, ...children) {
  const made = document.createElement(element.nodeName);
  add(made, children);
  if (!sameChildren(made, element)) element.replaceChildren(...made.childNodes);
}

function sameChildren(one, other) {
  return one.childNodes.length === other.childNodes.length
    && Array.from(one.childNodes).every((child, at) => child.isEqualNode(other.childNodes[at]));
}

/** A message in the place of content: loading, empty, an error. */
export function state(text, ...more) {
  return h("div", { class: "state" }, h("p", {}, text), more);
}

/** An error in the place of content, with a button that tries again. */
export function failure(error, retry) {
  // A mistake of the console itself, and not an answer of the server.
  if (error instanceof Error && error.status === undefined) console.error(error);
  return h("div", { class: "state bad", role: "alert" },
    h("p", { class: "state-title" }, error.title ?? "That did not work"),
    h("p", {}, error.message),
    retry && h("button", { type: "button", onclick: retry }, "Try again"));
}

export function card(title, ...children) {
  return h("section", { class: "card" }, title && h("h2", {}, title), children);
}

export function pill(kind, text) {
  return h("span", { class: `pill ${kind}` }, text);
}

/** A set of buttons of which one is chosen. */
export function choice(label, options, chosen, choose) {
  const group = h("div", { class: "choice", role: "group", "aria-label": label });
  const draw = (now) => show(group, options.map(([value, text]) => h("button", {
    type: "button", "aria-pressed": String(value === now), onclick: () => { draw(value); choose(value); },
  }, text)));
  draw(chosen);
  return group;
}

/** Asks for a confirmation; resolves to true or false. */
export function confirmIt(title, body, action) {
  return new Promise((done) => {
    const dialog = h("dialog", { class: "dialog", "aria-label": title },
      h("h2", {}, title), h("div", {}, body),
      h("div", { class: "row end" },
        h("button", { type: "button", onclick: () => dialog.close("no") }, "Cancel"),
        h("button", { type: "button", class: "danger", onclick: () => dialog.close("yes") }, action)));
    dialog.addEventListener("close", () => { done(dialog.returnValue === "yes"); dialog.remove(); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

let noteTimer = 0;
/** A short message at the edge of the page. */
export function note(text, kind = "") {
  const notes = document.getElementById("notes");
  show(notes, h("p", { class: `note ${kind}` }, text));
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => show(notes), 6000);
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    note("Copied");
  } catch {
    note("This browser does not allow copying here", "bad");
  }
}
