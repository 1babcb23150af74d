// Write: what is asked for, the texts as they come, the base's beside them.

import { get, post, stream } from "./api.js";
import { actions, finished } from "./cards.js";
import { $, announce, element, fill, problem } from "./dom.js";

const LABELS = {
  opening: ["Opening (empty: the model begins by itself)", "The sea"],
  tags: ["Tags, separated by commas", "love, hope"],
};
let running = null;

export async function refresh(choose) {
  const { data } = await get("v1/models");
  const tuned = data.filter((model) => model.parent);
  const chosen = choose ?? $("model").value;
  fill($("model"), ...tuned.map((model) => element("option", { value: model.id, "data-base": model.parent }, model.id)));
  if (tuned.some((model) => model.id === chosen)) $("model").value = chosen;
  $("no-model").hidden = tuned.length > 0;
  $("write-form").hidden = tuned.length === 0;
}

export function start() {
  $("write-form").addEventListener("submit", (event) => { event.preventDefault(); write(); });
  $("write-form").addEventListener("change", arrange);
  $("temperature").addEventListener("input", arrange);
  $("write-stop").addEventListener("click", () => running?.abort());
  arrange();
}

function kind() {
  return new FormData($("write-form")).get("kind");
}

function arrange() {
  const [label, placeholder] = LABELS[kind()];
  $("prompt-label").textContent = label;
  $("prompt").placeholder = placeholder;
  $("beside").disabled = kind() === "tags"; // the base knows no tags
  $("temperature").min = kind() === "tags" ? "0.1" : "0"; // choosing among one text is no choice
  $("temperature-shown").textContent = $("temperature").value;
}

async function write() {
  problem("write-problem", null);
  fill($("written"));
  busy(true);
  running = new AbortController();
  try {
    await (kind() === "tags" ? aboutTags() : fromOpening());
  } catch (error) {
    if (error.name !== "AbortError") problem("write-problem", error);
  } finally {
    running.abort(); // one side failed: the other has no use
    running = null;
    busy(false);
  }
}

function busy(yes) {
  $("written").setAttribute("aria-busy", String(yes));
  $("write-go").disabled = yes;
  $("write-stop").disabled = !yes;
  if (!yes) for (const place of document.querySelectorAll(".writing")) place.classList.remove("writing");
}

function asked() {
  return { n: Number($("count").value), temperature: Number($("temperature").value), seed: Math.floor(Math.random() * 2 ** 31) };
}

async function fromOpening() {
  const body = { ...asked(), prompt: $("prompt").value, stream: true };
  const model = $("model").value;
  const base = $("beside").checked ? $("model").selectedOptions[0].dataset.base : null;
  const cards = Array.from({ length: body.n }, () => card(base));
  fill($("written"), ...cards.map((one) => one.article));
  const sides = [follow({ ...body, model }, cards, "tuned", model)];
  if (base) sides.push(follow({ ...body, model: base }, cards, "base", null));
  await Promise.all(sides);
  announce(`${body.n} written`);
}

function card(base) {
  const side = (who) => element("div", { class: "side" }, element("p", { class: "text writing" }));
  const made = { tuned: side(), base: base ? side() : null };
  const column = (who, place) => element("div", {}, element("p", { class: "who" }, who), place);
  const body = base ? element("div", { class: "pair" }, column("fine-tuned", made.tuned), column("base", made.base)) : made.tuned;
  return { ...made, article: element("article", {}, body) };
}

async function follow(body, cards, which, run) {
  for await (const event of stream("v1/quotes", body, running.signal)) {
    const one = cards[event.index];
    if (event.row) {
      finished(one[which], event.row, which === "tuned" ? run : null);
      if (which === "tuned") one.article.append(actions(event.row, run));
    } else {
      one[which].firstChild.append(event.text);
    }
  }
}

async function aboutTags() {
  const tags = $("prompt").value.split(",").map((tag) => tag.trim()).filter(Boolean);
  if (!tags.length) throw new Error("name one tag or more");
  const model = $("model").value;
  fill($("written"), element("p", { class: "soft" }, "drawing quotes until some have these tags …"));
  const found = await post("v1/quotes", { ...asked(), about: tags, model }, running.signal);
  fill($("written"), ...found.data.map((row) => {
    const side = element("div");
    finished(side, row, model);
    return element("article", {}, side, actions(row, model));
  }));
  const said = `${found.data.length} found among ${found.drawn} that were drawn`;
  const often = found.data.length ? "" : `. The tags it writes most: ${found.frequent_tags.join(", ") || "none"}`;
  $("written").append(element("p", { class: "soft" }, said + often));
  announce(said);
}
