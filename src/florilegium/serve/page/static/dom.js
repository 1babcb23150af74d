// Elements. Text comes in here as text nodes, and in no other way: what a model or a row says is never markup.

export const $ = (id) => document.getElementById(id);

// element("p", {class: "soft"}, "text", otherElement): attributes by name, `on…` as listeners, the rest as text.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const button = (label, onclick, attributes = {}) => element("button", { type: "button", onclick, ...attributes }, label);

export function fill(parent, ...children) {
  parent.replaceChildren(...children);
}

// Said by a screen reader; seen by nobody.
export function announce(text) {
  $("news").textContent = text;
}

export function problem(id, error) {
  const place = $(id);
  place.hidden = !error;
  place.textContent = error ? error.message : "";
}

export function tagList(tags) {
  return element("ul", { class: "tags", "aria-label": "tags" }, ...tags.map((tag) => element("li", {}, tag)));
}
