// The page: asks the service, shows what it answers. The API key, where one is needed, lives in this tab alone.
"use strict";

const ENDS = ["done", "failed", "cancelled"];
const part = (id) => document.getElementById(id);
const root = new URL("..", document.baseURI);
let watched = null;

function complain(text) {
  part("error").hidden = !text;
  part("error").textContent = text ?? "";
}

/** A text as a header's value can hold it: its bytes in UTF-8, each as one character. */
function asHeader(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${asHeader(key)}` } : {}) };
  const reply = await fetch(new URL(path, root), { ...options, headers });
  if (reply.ok) return reply;
  if (reply.status === 401) part("key-form").hidden = false;
  const body = await reply.json().catch(() => ({}));
  throw new Error(typeof body.detail === "string" ? body.detail : `the service answered ${reply.status}`);
}

/** Runs an action with its button off, and says what goes wrong. */
async function guarded(button, action) {
  complain("");
  if (button) button.disabled = true;
  try {
    await action();
  } catch (error) {
    complain(error instanceof TypeError ? "The service cannot be reached." : error.message);
  } finally {
    if (button) button.disabled = false;
  }
}

async function showStatus() {
  const health = await (await ask("health")).json();
  part("status").textContent = health.model_loaded ? `Ready, on ${health.device}.` : "The model is being loaded …";
  if (!health.model_loaded) setTimeout(() => guarded(null, showStatus), 1000);
}

function element(name, text, options = {}) {
  return Object.assign(document.createElement(name), { textContent: text, ...options });
}

async function compare() {
  const texts = part("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (texts.length < 3 || texts.length > 40) throw new Error(`There are ${texts.length} texts; 3 to 40 can be shown.`);
  const body = { texts, noise_level: Number(part("level").value), seed: Number(part("seed").value), mode: part("mode").value, include_embeddings: true };
  const reply = await ask("compare", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const { mean, embeddings } = await reply.json();
  const sets = { "without noise": embeddings.clean, "with noise": embeddings.noisy, "denoised": embeddings.denoised };
  const truth = nearest(similarities(embeddings.clean));
  const view = directions(embeddings.clean);
  part("summary").textContent =
    `Cosine to the clean vectors: ${mean.noisy.cosine.toFixed(3)} with noise, ${mean.denoised.cosine.toFixed(3)} denoised. ` +
    `Squared error: ${mean.noisy.mse.toFixed(5)} and ${mean.denoised.mse.toFixed(5)}.`;
  part("heat").replaceChildren(...Object.entries(sets).map(([name, rows]) => heatMap(similarities(rows), name)));
  part("map").replaceChildren(...Object.entries(sets).map(([name, rows]) => neighbourMap(rows, view, truth, name)));
  part("result").hidden = false;
}

function table(figures) {
  const made = document.createElement("table");
  const head = made.createTHead().insertRow();
  for (const name of ["method", "noise", "query", "store", "both", "cosine", "mse"]) head.append(element("th", name, { scope: "col" }));
  const body = made.createTBody();
  const levels = [...new Set(figures.map((row) => row.noise_level))];
  for (const level of levels) {
    const rows = figures.filter((row) => row.noise_level === level);
    const best = Object.fromEntries(["query", "store", "both"].map((name) => [name, Math.max(...rows.map((row) => row.overlap[name]))]));
    for (const row of rows) {
      const line = body.insertRow();
      for (const text of [row.method, level]) line.append(element("td", text));
      for (const [name, value] of Object.entries(row.overlap)) line.append(element("td", value.toFixed(3), { className: value === best[name] ? "best" : "" }));
      for (const text of [row.cosine.toFixed(3), row.mse.toFixed(5)]) line.append(element("td", text));
    }
  }
  return made;
}

function showJob(job) {
  part("job").hidden = false;
  const { done, total } = job.progress;
  const ended = ENDS.includes(job.state);
  const more = ended ? "" : `${total > 1 ? `, ${done} of ${total}` : ""}${job.message ? `: ${job.message}` : ""}`;
  part("job-state").textContent = `${job.filename} (${job.sentences} sentences): ${job.state}${more}`;
  part("job-progress").value = ended ? 1 : total ? done / total : 0;
  part("cancel").hidden = ended;
  const steps = job.state === "training" ? total : job.losses.at(-1)?.step ?? 1;
  part("loss").replaceChildren(lossCurve(job.losses, steps, part("loss").clientWidth));
  part("report").hidden = !ended;
  part("verdict").textContent = job.message ? job.message[0].toUpperCase() + job.message.slice(1) + "." : "";
  part("figures").replaceChildren(...(job.figures.length ? [table(job.figures)] : []));
}

/** Follows a job's events until it ends; each event is a reason to look at the job anew. */
async function watch(id) {
  watched = id;
  const look = async () => (await ask(`jobs/${id}`)).json();
  const stream = (await ask(`jobs/${id}/events`)).body.getReader();
  while (watched === id) {
    const { done } = await stream.read();
    const job = await look();
    showJob(job);
    if (done || ENDS.includes(job.state)) break;
  }
  await stream.cancel();
  await showModels();
}

async function upload() {
  const form = new FormData();
  form.append("file", part("file").files[0]);
  const job = await (await ask("upload/", { method: "POST", body: form })).json();
  guarded(null, () => watch(job.job_id));
}

function modelLine(model) {
  const line = document.createElement("li");
  const text = element("div", model.model_id === "default" ? "default" : `${model.filename} (${model.model_id})`);
  text.append(element("small", [model.sentences ? `${model.sentences.toLocaleString("en")} sentences` : "", model.message].filter(Boolean).join("; ")));
  line.append(text);
  if (model.active) line.append(element("strong", "in use"));
  else {
    const button = element("button", "Switch to this one", { type: "button" });
    button.setAttribute("aria-label", `Switch to ${model.filename ?? "default"} ${model.model_id}`);
    button.addEventListener("click", () => guarded(button, async () => {
      await ask(`models/${model.model_id}/activate`, { method: "POST" });
      await showModels();
    }));
    line.append(button);
  }
  return line;
}

async function showModels() {
  const models = await (await ask("models")).json();
  part("models").replaceChildren(...models.map(modelLine));
}

async function start() {
  await showStatus();
  await showModels();
  const [latest] = await (await ask("jobs")).json();
  if (!latest) return;
  if (ENDS.includes(latest.state)) showJob(await (await ask(`jobs/${latest.job_id}`)).json());
  else guarded(null, () => watch(latest.job_id));
}

part("level").addEventListener("input", () => { part("level-shown").textContent = Number(part("level").value).toFixed(2); });
part("try-form").addEventListener("submit", (event) => { event.preventDefault(); guarded(part("try"), compare); });
part("upload-form").addEventListener("submit", (event) => { event.preventDefault(); guarded(event.submitter, upload); });
part("cancel").addEventListener("click", () => guarded(part("cancel"), () => ask(`jobs/${watched}`, { method: "DELETE" })));
part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", part("key").value);
  part("key-form").hidden = true;
  guarded(null, start);
});
guarded(null, start);
