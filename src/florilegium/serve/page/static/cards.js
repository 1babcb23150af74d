// A written text as a card: the quote, its other columns, its tags, whether it is new, and what can be done with it.

import { post } from "./api.js";
import { announce, button, element, fill, tagList } from "./dom.js";
import { isKept, keep } from "./kept.js";

const OWN = new Set(["text", "finished", "novel", "base", "model"]); // not columns: what the server and `keep` add to a row

// A row's columns stand under `columns` where one is called like a key of the row, else among these keys.
function named(row) {
  const apart = row.columns !== null && typeof row.columns === "object" && !Array.isArray(row.columns);
  return apart ? Object.entries(row.columns) : Object.entries(row).filter(([key]) => !OWN.has(key));
}

// Columns by what they hold: the first text is the quote, lists are tags; a row that has no quote shows its whole text.
export function columnsOf(row) {
  const columns = named(row);
  const texts = columns.filter(([, value]) => typeof value === "string" && value);
  const tags = columns.flatMap(([, value]) => (Array.isArray(value) ? value.map(String) : []));
  return { main: texts.length ? texts[0][1] : row.text, others: texts.slice(1), tags };
}

// What fills a side of a card when its text has ended; `run` is what wrote it, and null for the base.
export function finished(side, row, run) {
  const { main, others, tags } = columnsOf(row);
  const parts = [element("p", { class: "text" }, main)];
  for (const [name, value] of others) parts.push(element("p", { class: "soft" }, `${name}: ${value}`));
  if (tags.length) parts.push(tagList(tags));
  if (row.novel === null && run && !tags.length) parts.push(element("span", { class: "soft" }, "no tags"));
  if (row.novel === true) parts.push(element("span", { class: "badge new" }, "new"));
  if (row.novel === false) parts.push(...closeTo(row, main, run));
  if (!row.finished) parts.push(element("p", { class: "soft" }, "cut off: it came to the greatest length"));
  fill(side, ...parts);
}

function closeTo(row, text, run) {
  const place = element("p", { class: "close" });
  post("api/close", { run, text })
    .then(({ row: found }) => { place.textContent = found ? `close to this row: ${found}` : "its rows are no longer there to show which"; })
    .catch(() => {});
  return [element("span", { class: "badge copy" }, "close to a training row"), place];
}

export function actions(row, model) {
  const { main, tags } = columnsOf(row);
  const keeping = button(isKept(row) ? "Kept" : "Keep", () => {
    keep({ ...row, model });
    keeping.textContent = "Kept";
    keeping.disabled = true;
    announce("kept");
  }, { disabled: isKept(row) });
  const copying = button("Copy", async () => {
    const text = tags.length ? `${main}\n${tags.join(", ")}` : main;
    copying.textContent = (await copied(text)) ? "Copied" : "Select and copy";
    announce(copying.textContent);
  });
  return element("div", { class: "actions" }, copying, keeping);
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // a page that is not on this machine and not over https has no clipboard
  }
}
