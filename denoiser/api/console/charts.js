// Pictures from numbers: heat maps, a map of neighbours, a curve. Knows nothing of the service.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

function picture(width, height, label) {
  return shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
}

function framed(svg, caption) {
  const figure = document.createElement("figure");
  const line = document.createElement("figcaption");
  line.textContent = caption;
  figure.append(svg, line);
  return figure;
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const unit = (a) => { const length = Math.sqrt(dot(a, a)) || 1; return a.map((value) => value / length); };

/** Cosine similarity of every two rows. */
function similarities(rows) {
  const units = rows.map(unit);
  return units.map((a) => units.map((b) => dot(a, b)));
}

/** For each row the index of its most similar other row. */
function nearest(similar) {
  return similar.map((row, i) => row.reduce((best, value, j) => (j !== i && (best < 0 || value > row[best]) ? j : best), -1));
}

function heatMap(similar, caption) {
  const count = similar.length, size = 280, edge = 18, cell = (size - edge) / count;
  const svg = picture(size, size, `${caption}: similarity of ${count} texts with each other`);
  const every = Math.ceil(count / 20);
  similar.forEach((row, i) => {
    if (i % every === 0) {
      shape("text", { x: edge - 4, y: edge + (i + 0.5) * cell, "text-anchor": "end", "dominant-baseline": "central" }, svg, i + 1);
      shape("text", { x: edge + (i + 0.5) * cell, y: edge - 5, "text-anchor": "middle" }, svg, i + 1);
    }
    row.forEach((value, j) => {
      const box = { x: edge + j * cell, y: edge + i * cell, width: cell, height: cell };
      const drawn = shape("rect", { ...box, class: "cell", "fill-opacity": Math.max(0.02, Math.min(1, value)) }, svg);
      shape("title", {}, drawn, `${i + 1} and ${j + 1}: ${value.toFixed(2)}`);
    });
  });
  shape("rect", { x: edge, y: edge, width: size - edge, height: size - edge, class: "frame" }, svg);
  return framed(svg, caption);
}

/** The two directions in which rows differ most, and their mean; by power iteration on the rows' products. */
function directions(rows) {
  const mean = rows[0].map((_, k) => rows.reduce((sum, row) => sum + row[k], 0) / rows.length);
  const centred = rows.map((row) => row.map((value, k) => value - mean[k]));
  const products = centred.map((a) => centred.map((b) => dot(a, b)));
  const found = [];
  for (let n = 0; n < 2; n++) {
    let weights = rows.map((_, i) => Math.sin(i + 1 + n));
    for (let turn = 0; turn < 200; turn++) {
      weights = products.map((row) => dot(row, weights));
      for (const other of found) { const share = dot(weights, other); weights = weights.map((w, i) => w - share * other[i]); }
      weights = unit(weights);
    }
    found.push(weights);
  }
  const axes = found.map((weights) => unit(mean.map((_, k) => centred.reduce((sum, row, i) => sum + weights[i] * row[k], 0))));
  return { mean, axes };
}

function neighbourMap(rows, view, truth, caption) {
  const size = 280, edge = 16;
  const found = nearest(similarities(rows));
  const points = rows.map((row) => view.axes.map((axis) => dot(row.map((value, k) => value - view.mean[k]), axis)));
  const far = Math.max(...points.flat().map(Math.abs), 1e-9);
  const place = (value) => size / 2 + (value / far) * (size / 2 - edge);
  const kept = truth.filter((other, i) => found[i] === other).length;
  const svg = picture(size, size, `${caption}: ${kept} of ${rows.length} texts keep their nearest one`);
  shape("rect", { x: 0.5, y: 0.5, width: size - 1, height: size - 1, class: "frame" }, svg);
  truth.forEach((other, i) => {
    const [a, b] = [points[i], points[other]];
    shape("line", { x1: place(a[0]), y1: place(a[1]), x2: place(b[0]), y2: place(b[1]), class: found[i] === other ? "kept" : "lost" }, svg);
  });
  points.forEach(([x, y], i) => {
    shape("circle", { cx: place(x), cy: place(y), r: 8, class: "dot" }, svg);
    shape("text", { x: place(x), y: place(y), class: "name" }, svg, i + 1);
  });
  return framed(svg, `${caption}: ${kept} of ${rows.length} nearest kept`);
}

/** Drawn as wide as the place it is for, so that its words keep their size. */
function lossCurve(points, steps, room) {
  const width = Math.max(260, room), height = 220, left = 44, bottom = 28, top = 10;
  const svg = picture(width, height, points.length ? `loss ${points.at(-1).loss.toFixed(3)} after ${points.at(-1).step} of ${steps} steps` : "no loss yet");
  shape("rect", { x: left, y: top, width: width - left - 10, height: height - bottom - top, class: "frame" }, svg);
  if (!points.length) return svg;
  const losses = points.map((point) => point.loss);
  let [low, high] = [Math.min(...losses), Math.max(...losses)];
  if (high - low < 0.02) { low -= 0.01; high += 0.01; }
  const x = (step) => left + (step / steps) * (width - left - 10);
  const y = (loss) => top + 6 + ((high - loss) / (high - low)) * (height - bottom - top - 12);
  shape("polyline", { class: "curve", points: points.map((point) => `${x(point.step)},${y(point.loss)}`).join(" ") }, svg);
  shape("circle", { class: "cell", r: 4, cx: x(points.at(-1).step), cy: y(points.at(-1).loss) }, svg);
  for (const value of [low, high]) shape("text", { x: left - 6, y: y(value), "text-anchor": "end", "dominant-baseline": "central" }, svg, value.toFixed(3));
  for (const value of [0, steps]) shape("text", { x: x(value), y: height - 9, "text-anchor": value ? "end" : "start" }, svg, value ? `${value} steps` : 0);
  return svg;
}
