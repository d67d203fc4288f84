"use strict";
const byId = (id) => document.getElementById(id);
const SECONDS = 120;
const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });
const seconds = [];

// The slider is logarithmic: 0 is 1/s, 100 is 100,000/s.
const rateOf = (position) => Number((10 ** (position / 20)).toPrecision(2));
const positionOf = (rate) => Math.round(20 * Math.log10(Math.max(1, rate)));

function chart(id, keys, unit) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const hues = ["#9ca3af", "#3b82f6", "#10b981", "#ef4444"];
  const axis = { stroke: color("--ink"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
  const box = byId(id);
  const plot = new uPlot({
    width: box.clientWidth, height: 210, scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(high || 0, 1) * 1.1] } },
    axes: [{ ...axis, label: "seconds", labelSize: 20 }, { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => number(tick, 2)) }],
    series: [{ label: "second" }, ...keys.map(([label], index) => ({ label: label + (unit ? `, ${unit}` : ""), stroke: hues[index], width: 2, dash: index || keys.length > 3 ? undefined : [6, 4], points: { show: false }, value: (_, value) => (value == null ? "-" : number(value, 2)) }))],
  }, [[], ...keys.map(() => [])], box);
  new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: 210 })).observe(box);
  return () => plot.setData([seconds.map((second) => second.at_s), ...keys.map(([, key]) => seconds.map((second) => second[key]))]);
}

let drawRates, drawLatencies;
function makeCharts() {
  for (const id of ["rates", "latencies"]) byId(id).replaceChildren();
  drawRates = chart("rates", [["target", "target"], ["sent", "sent"], ["answered", "answered"]], "");
  drawLatencies = chart("latencies", [["mean", "mean_ms"], ["p50", "p50_ms"], ["p95", "p95_ms"], ["p99", "p99_ms"]], "");
  drawRates(); drawLatencies();
}

function rows(id, lines) {
  byId(id).replaceChildren(...lines.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell) => Object.assign(document.createElement("td"), { textContent: cell })));
    return row;
  }));
}

function figures(status) {
  const second = status.second;
  const ms = (key) => (second ? second[key].toLocaleString("en", { maximumSignificantDigits: 3 }) + " ms" : "-");
  const pairs = [["target", status.running ? number(status.rate) + "/s" : "-"], ["sent", second ? number(second.sent) + "/s" : "-"],
    ["answered", second ? number(second.answered) + "/s" : "-"], ["in flight", number(status.in_flight)], ["mean", ms("mean_ms")],
    ["p50", ms("p50_ms")], ["p95", ms("p95_ms")], ["p99", ms("p99_ms")], ["processes", String(status.processes)]];
  byId("figures").replaceChildren(...pairs.map(([name, value]) => {
    const box = document.createElement("div");
    box.append(Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value }));
    return box;
  }));
}

function show(status) {
  if (status.history) seconds.splice(0, seconds.length, ...status.history);
  const second = status.second, last = seconds.at(-1);
  if (second && last && second.at_s < last.at_s) seconds.length = 0;
  if (second && (!seconds.length || second.at_s > seconds.at(-1).at_s)) seconds.push(second);
  if (seconds.length > SECONDS) seconds.shift();
  byId("state").textContent = status.running ? "running" : "stopped";
  byId("stop").disabled = !status.running;
  byId("start").textContent = status.running ? "Change" : "Start";
  if (byId("note").textContent !== status.note) byId("note").textContent = status.note;
  figures(status);
  rows("tasks", status.tasks.map((task) => [task.id, number(task.requests_per_s), number(task.in_flight),
    task.time_without_credit == null ? "-" : number(100 * task.time_without_credit, 1) + " %"]));
  const kinds = Object.entries(status.errors);
  rows("errors", kinds.length ? kinds.map(([kind, count]) => [kind, number(count)]) : [["none", ""]]);
  drawRates(); drawLatencies();
}

async function post(path) {
  const response = await fetch(path, { method: "POST" }).catch(() => null);
  const body = response ? await response.json() : { error: "the benchmark does not answer; is it still running?" };
  if (body.error) byId("note").textContent = body.error; else show(body);
}

const start = () => post("/start?" + new URLSearchParams(["rate", "mix", "poisson", "processes"].map((id) => [id, byId(id).value])));
const change = () => { if (byId("start").textContent === "Change" && byId("controls").reportValidity()) start(); };
byId("slider").value = positionOf(Number(byId("rate").value));
byId("slider").addEventListener("input", () => { byId("rate").value = rateOf(Number(byId("slider").value)); });
byId("slider").addEventListener("change", change);
byId("rate").addEventListener("input", () => { byId("slider").value = positionOf(Number(byId("rate").value)); });
byId("controls").addEventListener("submit", (event) => { event.preventDefault(); start(); });
byId("stop").addEventListener("click", () => post("/stop"));
makeCharts();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", makeCharts);

const source = new EventSource("/events");
let first = true;
source.onmessage = (message) => {
  const status = JSON.parse(message.data);
  if (first) for (const id of status.running ? ["rate", "mix", "poisson"] : ["mix"]) byId(id).value = String(status[id]);
  if (first) byId("slider").value = positionOf(Number(byId("rate").value));
  first = false;
  show(status);
};
source.onerror = () => { byId("state").textContent = "not connected"; };
