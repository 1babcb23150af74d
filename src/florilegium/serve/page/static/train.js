// Train: a file, what is in it, and the run as it goes.

import { get, post, postFile, stream } from "./api.js";
import { columnsOf } from "./cards.js";
import { lossChart } from "./chart.js";
import { $, announce, element, fill, problem, tagList } from "./dom.js";

const STATUS = {
  running: "training", stopping: "saving, then it stops", finished: "finished", stopped: "stopped; everything is saved", failed: "it failed",
};
let data = null, go = null, watching = null;
let metrics = [], samples = [], state = {};

export function start(ways) {
  go = ways;
  $("file").addEventListener("change", () => $("file").files[0] && attempt(() => take($("file").files[0])));
  $("use-sample").addEventListener("click", () => attempt(() => inspect("sample", true)));
  for (const id of ["text-column", "tags-column", "mend"]) $(id).addEventListener("change", () => attempt(() => inspect(data, false)));
  $("train-form").addEventListener("submit", (event) => { event.preventDefault(); attempt(begin); });
  $("train-stop").addEventListener("click", () => attempt(() => post("api/training/stop")));
  $("train-resume").addEventListener("click", () => resume(state.run));
  $("train-write").addEventListener("click", () => go.write(state.run));
  dropping();
  watch();
}

export const resume = (run) => attempt(async () => {
  await post(`api/training/resume/${encodeURIComponent(run)}`);
  watch();
});

async function attempt(work) {
  problem("train-problem", null);
  try {
    await work();
  } catch (error) {
    problem("train-problem", error);
  }
}

function dropping() {
  const place = $("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    place.addEventListener(name, (event) => {
      event.preventDefault();
      place.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) attempt(() => take(event.dataTransfer.files[0]));
    });
  }
}

async function take(file) {
  announce(`reading ${file.name}`);
  const taken = await postFile(`api/uploads?name=${encodeURIComponent(file.name)}`, file);
  $("run-name").value = file.name.split(".")[0].replace(/[^A-Za-z0-9-]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 40);
  await inspect(taken.data, true);
}

const chosen = () => ({
  data, text_column: $("text-column").value || null, tags_column: $("tags-column").value || null, fix_encoding: $("mend").checked,
});

// A new file is asked for with its own columns; a change of them is asked again.
async function inspect(name, isNew) {
  const body = isNew ? { data: name } : { ...chosen(), data: name };
  const found = await post("api/inspect", body);
  data = name;
  if (isNew) $("mend").checked = false;
  show(found, isNew);
}

function show(found, isNew) {
  const held = `${found.training_rows} to train on, ${found.held_out_rows} held out to measure with`;
  const bad = found.skipped.rows ? `; ${found.skipped.rows} that cannot be read are left out` : "";
  $("data-facts").textContent = `${found.num_rows} rows of ${found.num_read} read: ${held}${bad}.`;
  fill($("data-notes"), ...found.notes.map((note) => element("li", {}, note)));
  if (isNew) columns(found);
  $("mend-label").hidden = !found.can_be_mended && !$("mend").checked;
  $("mend-text").textContent = $("mend").checked ? "broken encoding repaired" : `repair broken encoding (${found.can_be_mended} rows)`;
  fill($("findings"), ...found.findings.flatMap((one) => [element("dt", {}, one.name), element("dd", {}, one.sentence)]));
  $("no-findings").hidden = found.findings.length > 0;
  fill($("examples"), ...found.rows.map((row) => element("li", {}, element("p", { class: "text" }, row.text))));
  $("data").hidden = false;
  announce($("data-facts").textContent);
}

// Which were found stands in the notes; a person may name others.
function columns(found) {
  for (const id of ["text-column", "tags-column"]) {
    const names = found.columns.map((name) => element("option", { value: name }, name));
    fill($(id), element("option", { value: "" }, "as found"), ...names);
  }
}

async function begin() {
  $("train-go").disabled = true;
  try {
    await post("api/training/start", { ...chosen(), model: $("base").value, epochs: Number($("epochs").value) || null, name: $("run-name").value || null });
    watch();
    $("live").scrollIntoView();
  } finally {
    $("train-go").disabled = false;
  }
}

// Follows what is trained until it ends; a connection that breaks is taken up again.
async function watch() {
  watching?.abort();
  const mine = (watching = new AbortController());
  while (!mine.signal.aborted) {
    try {
      for await (const event of stream("api/training/events", null, mine.signal)) take_in(event);
      return;
    } catch (error) {
      if (mine.signal.aborted) return;
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

function take_in(event) {
  if (event.type === "state") showState(event);
  else if (event.type === "metrics") metrics = [...metrics.slice(0, event.from), ...event.rows];
  else samples = [...samples.slice(0, event.from), ...event.rows];
  if (event.type === "metrics") showMetrics();
  if (event.type === "samples") showSamples();
}

function showState(now) {
  if (now.run !== state.run) [metrics, samples] = [[], []];
  const changed = now.status !== state.status;
  state = now;
  $("live").hidden = now.status === "none";
  if (now.status === "none") return;
  const active = now.status === "running" || now.status === "stopping";
  $("live-title").textContent = `Training ${now.run}`;
  const said = now.failure ?? now.verdict?.sentence;
  $("live-status").textContent = STATUS[now.status] + (said ? `: ${said}` : "");
  $("said").textContent = now.said.join("\n");
  $("train-stop").hidden = !active;
  $("train-stop").disabled = now.status === "stopping";
  $("train-resume").hidden = !now.can_resume;
  $("train-write").hidden = now.status !== "finished";
  $("live-progress").hidden = !active;
  if (changed && now.status === "finished") go.trained(now.run);
}

const pairs = (key) => metrics.filter((row) => typeof row[key] === "number").map((row) => [row.step, row[key]]);

function showMetrics() {
  const training = pairs("loss"), heldOut = pairs("eval_loss");
  const step = metrics.at(-1)?.step ?? 0;
  $("live-step").textContent = `step ${step}` + (state.planned_steps ? ` of ${state.planned_steps}` : "") + (training.length ? `, loss ${training.at(-1)[1].toFixed(3)}` : "");
  if (state.planned_steps) $("live-progress").value = step / state.planned_steps;
  if (training.length + heldOut.length) fill($("live-chart"), lossChart(training, heldOut, state.planned_steps, $("live-chart")));
}

function showSamples() {
  const last = samples.at(-1)?.step;
  const rows = samples.filter((row) => row.step === last).map(({ step, prompt, ...row }) => row);
  fill($("samples"), ...rows.map((row) => {
    const { main, tags } = columnsOf(row);
    return element("li", {}, element("p", { class: "text" }, main), tags.length ? tagList(tags) : null);
  }));
}
