// The three panels, and what leads from one to another.

import { $, announce, problem } from "./dom.js";
import * as kept from "./kept.js";
import * as look from "./look.js";
import * as train from "./train.js";
import * as write from "./write.js";

const NAMES = ["write", "look", "train"];

function show(name, focus = false) {
  for (const one of NAMES) {
    const tab = $(`tab-${one}`), chosen = one === name;
    $(one).hidden = !chosen;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) tab.focus();
  }
  history.replaceState(null, "", `#${name}`);
  if (name === "look") look.refresh(go);
  if (name === "write") models();
}

async function models(choose) {
  try {
    await write.refresh(choose);
    problem("write-problem", null);
  } catch (error) {
    problem("write-problem", error);
  }
}

const go = {
  write: async (run) => { show("write", true); await models(run); },
  resume: (run) => { show("train", true); train.resume(run); },
  trained: (run) => { announce(`${run} is trained`); models(); },
};

for (const [i, name] of NAMES.entries()) {
  $(`tab-${name}`).addEventListener("click", () => show(name));
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const to = step ? (i + step + NAMES.length) % NAMES.length : { Home: 0, End: NAMES.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(NAMES[to], true);
  });
}
$("to-train").addEventListener("click", () => show("train", true));
kept.start();
write.start();
train.start(go);
const wanted = location.hash.slice(1);
show(NAMES.includes(wanted) ? wanted : "write");
