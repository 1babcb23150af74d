// The losses of a run as a drawing: training as a line, held-out as a line with dots.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 220, LEFT = 44, RIGHT = 12, TOP = 14, BOTTOM = 26, MOST = 400;

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// `training` and `heldOut` are lists of [step, loss]; `place` is where it will stand: its text has one size on any screen.
export function lossChart(training, heldOut, steps, place) {
  const WIDTH = Math.min(600, Math.max(260, place.clientWidth));
  const points = [...training, ...heldOut];
  const losses = points.map(([, loss]) => loss);
  const low = Math.min(...losses), high = Math.max(...losses), last = Math.max(steps ?? 0, ...points.map(([step]) => step), 1);
  const x = (step) => LEFT + ((WIDTH - LEFT - RIGHT) * step) / last;
  const y = (loss) => TOP + (HEIGHT - TOP - BOTTOM) * (high > low ? (high - loss) / (high - low) : 0.5);
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words(training, heldOut) });
  for (const loss of high > low ? [low, (low + high) / 2, high] : [low]) {
    svg.append(shape("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(loss), y2: y(loss), class: "grid" }));
    svg.append(shape("text", { x: LEFT - 6, y: y(loss) + 4, "text-anchor": "end" }, loss.toFixed(2)));
  }
  svg.append(shape("text", { x: LEFT, y: HEIGHT - 6 }, "step 0"), shape("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, "text-anchor": "end" }, `${last}`));
  svg.append(line(thinned(training), x, y, "line-0"), line(heldOut, x, y, "line-1"));
  for (const [step, loss] of heldOut) svg.append(shape("circle", { cx: x(step), cy: y(loss), r: 3, class: "line-1" }));
  const key = shape("text", { x: WIDTH - RIGHT, y: TOP - 2, "text-anchor": "end" });
  key.append(tspan("training  ", "line-0"), tspan("held out", "line-1"));
  svg.append(key);
  return svg;
}

function tspan(text, name) {
  const made = shape("tspan", {}, text);
  made.setAttribute("fill", name === "line-1" ? "var(--line-1)" : "var(--line-0)");
  return made;
}

const line = (points, x, y, name) =>
  shape("polyline", { points: points.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" "), class: name });

// A long run has more steps than the drawing has places.
const thinned = (points) => points.filter((_, i) => points.length <= MOST || i % Math.ceil(points.length / MOST) === 0);

function words(training, heldOut) {
  const said = (what, points) => (points.length ? `${what} loss ${points[0][1].toFixed(2)} at first, ${points.at(-1)[1].toFixed(2)} now` : "");
  return [said("training", training), said("held-out", heldOut)].filter(Boolean).join("; ") || "no loss yet";
}
