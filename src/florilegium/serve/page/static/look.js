// Look: the runs, what became of each, and their reports.

import { get } from "./api.js";
import { $, button, element, fill, problem } from "./dom.js";

export async function refresh(go) {
  try {
    const { runs } = await get("api/runs");
    problem("look-problem", null);
    $("no-runs").hidden = runs.length > 0;
    fill($("runs"), ...runs.map((run) => card(run, go)));
  } catch (error) {
    problem("look-problem", error);
  }
}

function card(run, go) {
  const parts = [element("h3", {}, run.name)];
  if (run.verdict) parts.push(element("p", { class: run.verdict.works ? "works" : "poor" }, run.verdict.sentence));
  else parts.push(element("p", { class: "soft" }, where(run)));
  parts.push(element("p", { class: "soft" }, facts(run)));
  const report = `api/runs/${encodeURIComponent(run.name)}/report`;
  const links = [element("a", { href: report, target: "_blank", rel: "noopener", "aria-label": `Report of ${run.name}, opens a new tab` }, "Report")];
  if (run.status === "finished") links.push(button("Write with it", () => go.write(run.name), { "aria-label": `Write with ${run.name}` }));
  if (run.status === "stopped") links.push(button("Resume", () => go.resume(run.name), { "aria-label": `Resume ${run.name}` }));
  parts.push(element("div", { class: "actions" }, ...links));
  return element("article", {}, ...parts);
}

function where(run) {
  if (run.status === "finished") return "finished";
  const of = run.planned_steps ? ` of ${run.planned_steps}` : "";
  return run.status === "training" ? `training, step ${run.step}${of}` : `stopped at step ${run.step}${of}`;
}

function facts(run) {
  const parts = [run.date, run.model, run.data];
  if (run.loss !== null) parts.push(`held-out loss ${run.loss.toFixed(3)}` + (run.loss_before === null ? "" : `, ${run.loss_before.toFixed(3)} before`));
  if (run.tag_f1 !== null) parts.push(`tag F1 ${run.tag_f1.toFixed(3)}`);
  return parts.filter(Boolean).join(" · ");
}
