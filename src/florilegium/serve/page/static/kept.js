// Favourites: in this browser, and nowhere else.

import { $, button, element, fill, tagList } from "./dom.js";
import { columnsOf } from "./cards.js";

const PLACE = "florilegium.kept";

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE) ?? "[]");
    return Array.isArray(found) ? found.filter((row) => row && typeof row.text === "string") : [];
  } catch {
    return [];
  }
}

function save(now) {
  rows = now;
  try { localStorage.setItem(PLACE, JSON.stringify(rows)); } catch { /* full or forbidden: they stay for this visit */ }
  show();
}

let rows = load();

export const isKept = (row) => rows.some((one) => one.text === row.text);

export function keep(row) {
  if (!isKept(row)) save([...rows, row]);
}

function remove(row) {
  save(rows.filter((one) => one !== row));
  $("kept-title").focus();
}

function show() {
  fill($("kept"), ...rows.map((row) => {
    const { main, tags } = columnsOf(row);
    const away = button("Remove", () => remove(row), { "aria-label": `Remove: ${main.slice(0, 60)}` });
    return element("li", {}, element("p", { class: "text" }, main), tags.length ? tagList(tags) : null, element("div", { class: "actions" }, away));
  }));
  $("kept-none").hidden = rows.length > 0;
  $("kept-buttons").hidden = rows.length === 0;
}

export const asJsonLines = () => rows.map((row) => JSON.stringify(row) + "\n").join("");

export function start() {
  $("kept-title").tabIndex = -1;
  $("kept-download").addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([asJsonLines()], { type: "application/jsonl" }));
    element("a", { href: address, download: "quotes.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  });
  show();
}
