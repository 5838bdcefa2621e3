"use strict";
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)"), narrow = matchMedia("(max-width: 640px)");
const make = (tag, text, parent, kind) => {
  const element = document.createElement(tag);
  element.textContent = text;
  if (kind) element.className = kind;
  parent.append(element);
  return element;
};
const chips = (runs, parent) => {
  const span = make("span", " ", parent, "chips");
  for (const run of runs) Object.assign(make("a", run.slice(0, 8), span, "chip"), {href: "#run-" + run});
};

// ------------------------------------------------------------------------- the run that a link names is inside a fold
const unfold = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = target && target.closest("details");
  if (fold && !fold.open) { fold.open = true; target.scrollIntoView(); }
};
addEventListener("hashchange", unfold);
unfold();

// ------------------------------------------------------------------------------------- tables: sort by column, search
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const key = row => {
      const cell = row.cells[column];
      return cell.dataset.order === undefined ? null : parseFloat(cell.dataset.order);
    };
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x !== null && y !== null) return sign * (x - y);
      if (x !== null || y !== null) return x === null ? 1 : -1;  // what was not measured comes last
      return sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent, undefined, {numeric: true});
    });
    body.append(...rows);
  }));
}
for (const input of document.querySelectorAll(".search")) {
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of input.parentElement.querySelector("tbody").rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  });
}

// ------------------------------------------------------------------------------- the guide's rule, as plmft.page.choice
const holm = values => {  // numbers and nulls
  const tested = values.map((p, i) => [p, i]).filter(([p]) => p !== null).sort((a, b) => a[0] - b[0]);
  const adjusted = values.map(() => null);
  let highest = 0;
  tested.forEach(([p, i], rank) => {
    highest = Math.max(highest, Math.min(1, p * (tested.length - rank)));
    adjusted[i] = highest;
  });
  return adjusted;
};
const choose = (contest, limits) => {
  const fits = point => {
    const seconds = point.costs.train_s;
    const pairs = [[limits.records, point.records], [limits.memory, point.memory_gb],
      [limits.hours, seconds === undefined ? null : seconds / 3600], [limits.usd, point.costs.usd]];
    return pairs.every(([limit, value]) => limit === null || (value !== null && value !== undefined && value <= limit))
      && (limits.device === null || limits.device === point.device);
  };
  const within = contest.order.filter(i => fits(contest.points[i]));
  if (!within.length) return null;
  const best = within[0], others = within.slice(1).sort((a, b) => a - b);
  const p = holm(others.map(i => contest.p[best][i]));
  const asGood = others.filter((_, k) => p[k] !== null && p[k] >= 0.05);
  const time = i => contest.points[i].costs.train_s ?? Infinity;
  const cheap = [best, ...asGood].filter(i => contest.points[i].device === contest.points[best].device);
  return {take: cheap.reduce((a, b) => time(b) < time(a) ? b : a), best, asGood};
};
for (const form of document.querySelectorAll(".chooser")) {
  const contests = JSON.parse(form.querySelector("script").textContent), fields = form.elements;
  const devices = () => {
    const found = [...new Set(contests[fields.contest.value].points.map(point => point.device))];
    fields.device.replaceChildren(new Option("any", ""), ...found.map(name => new Option(name, name)));
  };
  const answer = () => {
    const contest = contests[fields.contest.value], output = form.querySelector("output");
    const number = name => fields[name].value === "" ? null : parseFloat(fields[name].value);
    const limits = {device: fields.device.value || null};
    for (const name of ["records", "memory", "hours", "usd"]) limits[name] = number(name);
    output.replaceChildren();
    const choice = choose(contest, limits);
    if (!choice) return make("p", "No run fits these limits, or what they limit was not measured.", output, "warning");
    const {take, best, asGood} = choice, point = contest.points[take];
    const said = make("p", `Take ${point.name}: ${contest.metric} ${point.score}; ${point.price}.`, output, "answer");
    chips(point.runs, said);
    const same = [best, ...asGood].filter(i => i !== take).map(i => contest.points[i]);
    if (same.length) {
      const names = same.map(other => `${other.name} (${other.value.toFixed(3)})`).join(", ");
      const here = same.filter(other => other.device === point.device).length;
      const which = here === same.length ? "these" : `those on ${point.device}`;
      const fastest = here && point.costs.train_s !== undefined ? `; it trains fastest of ${which}` : "";
      const not = make("p", `The test set cannot tell it from ${names}${fastest}.`, output);
      chips(same.flatMap(other => other.runs), not);
    }
    if (point.random) make("p", "Random weights: the cost holds, the accuracy says nothing of pretrained ones.", output, "gap");
  };
  fields.contest.addEventListener("change", devices);
  for (const kind of ["input", "change"]) form.addEventListener(kind, answer);
  form.addEventListener("submit", event => event.preventDefault());
  devices();
  answer();
}

// ---------------------------------------------------------------------------------------------- accuracy against cost
const SYMBOLS = {full: "circle", lora: "diamond", frozen: "square", none: "triangle-up", qlora: "cross", dora: "star"};
const short = value => value === 0 ? "0" : Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en")
  : Number(value.toPrecision(3)).toString();
const ticks = (known, beyond) => {  // 1, 2, 5 of each decade, or powers of ten alone where these are many
  const low = Math.min(...known), high = Math.max(...known), end = Math.max(high, ...beyond);
  const decades = [];
  for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.ceil(Math.log10(high)) + 1; power++) decades.push(power);
  const steps = high / low > 1000 ? [1] : high / low > (narrow.matches ? 8 : 100) ? [1, 3] : [1, 2, 5];
  const tickvals = decades.flatMap(power => steps.map(step => step * 10 ** power))
    .filter(value => !beyond.length || value <= high * 1.01);
  const room = Math.max(0.08, 0.09 * Math.log10(high / low));
  return {tickvals, ticktext: tickvals.map(short), range: [Math.log10(low) - room, Math.log10(end) + room]};
};
const draw = figure => {
  const data = JSON.parse(figure.querySelector("script").textContent), area = figure.querySelector(".plot");
  const [axisBox, logBox, othersBox] = figure.querySelectorAll(".controls select, .controls input");
  const axis = data.axes.find(one => one.key === axisBox.value), at = point => point.costs[axis.key];
  const models = [...new Set(data.points.map(point => point.model))];
  const positive = data.points.every(point => at(point) === undefined || at(point) > 0);
  logBox.disabled = !positive;
  const log = logBox.checked && positive, onFront = new Set(data.fronts[axis.key].flat());
  const groups = new Map();
  data.points.forEach((point, i) => {
    if (at(point) === undefined) return;
    const name = `${point.model} ${point.tuning}`.trim() + (point.random ? ", random weights" : "");
    groups.set(name, [...(groups.get(name) ?? []), i]);
  });
  const labelled = !narrow.matches && data.points.length <= 8, scale = log ? Math.log : value => value;
  const costs = data.points.map(at).filter(value => value !== undefined).map(scale);
  const middle = (Math.min(...costs) + Math.max(...costs)) / 2;
  const side = point => scale(at(point)) > middle ? "top left" : "top right";
  const unit = axis.unit ? " " + axis.unit : "";
  const traces = [...groups].map(([name, members]) => {
    const points = members.map(i => data.points[i]), color = css("--c" + models.indexOf(points[0].model) % 8);
    return {
      name, type: "scatter", mode: labelled ? "markers+text" : "markers", cliponaxis: false, x: points.map(at), y: points.map(point => point.value),
      marker: {size: members.map(i => onFront.has(i) ? 13 : 9), color, symbol: SYMBOLS[points[0].tuning] ?? "circle",
        opacity: 1, line: {width: 1.5, color: css("--back")}},
      error_y: {type: "data", symmetric: false, color, thickness: 1.2, width: 3,
        array: points.map(point => point.high === null ? 0 : point.high - point.value),
        arrayminus: points.map(point => point.low === null ? 0 : point.value - point.low)},
      text: points.map(point => ` ${point.name} `), textposition: points.map(side), textfont: {size: 12, color: css("--muted")},
      hovertext: points.map(point => `<b>${point.name}</b><br>${data.metric} `
        + `${point.score}<br>${axis.label} ${short(at(point))}${unit}<br>${point.price}`),
      hovertemplate: "%{hovertext}<extra></extra>", customdata: points.map(point => point.runs[0]),
    };
  });
  const lines = data.fronts[axis.key].map(front => front.map(i => data.points[i]));  // one a device
  traces.unshift(...lines.map(line => ({type: "scatter", mode: "lines", x: line.map(at), y: line.map(point => point.value),
    hoverinfo: "skip", showlegend: false, line: {shape: "hv", width: 1.5, dash: "dot", color: css("--muted")}})));
  const strips = othersBox.checked ? ["published", "claimed"].filter(kind => data.others[kind].length) : [];
  const known = data.points.map(at).filter(value => value !== undefined), low = Math.min(...known), high = Math.max(...known);
  const share = narrow.matches ? 0.27 : 0.14;
  const reach = log ? Math.max(1.35, (high / low) ** share) : Math.max(high - Math.min(0, low), 1e-9) * share;
  const places = strips.map((_, i) => log ? high * reach ** (i + 1) : high + reach * (i + 1));
  strips.forEach((kind, i) => traces.push({
    name: kind, type: "scatter", mode: "markers", showlegend: false, x: data.others[kind].map(() => places[i]),
    y: data.others[kind].map(other => other.value), hovertext: data.others[kind].map(other => other.label),
    hovertemplate: `${kind} %{y:.3f}<br>%{hovertext}<extra></extra>`,
    marker: {symbol: kind === "published" ? "line-ew-open" : "x-thin-open", size: kind === "claimed" ? 8 : narrow.matches ? 12 : 16,
      color: css("--muted"), line: {width: 1.5, color: css("--muted")}},
  }));
  const notes = strips.map((kind, i) => ({x: log ? Math.log10(places[i]) : places[i], yref: "paper", y: 1, yanchor: "bottom",
    showarrow: false, text: kind, font: {size: narrow.matches ? 10.5 : 12, color: css("--muted")}}));
  const grid = {gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true};
  const about = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", annotations: notes, hovermode: "closest",
    font: {family: getComputedStyle(document.body).fontFamily, size: narrow.matches ? 11.5 : 13, color: css("--text")},
    margin: {l: 10, r: 14, t: strips.length ? 28 : 14, b: 10}, showlegend: !labelled, legend: {orientation: "h", x: 0, y: strips.length ? 1.08 : 1.02, yanchor: "bottom"},
    xaxis: {...grid, type: log ? "log" : "linear", title: {text: axis.label + (axis.unit ? `, ${axis.unit}` : "")},
      tickangle: 0, ...(log ? ticks(known, places) : {rangemode: "tozero"})},
    yaxis: {...grid, title: {text: data.metric}, autorange: data.lower ? "reversed" : true},
    hoverlabel: {bgcolor: css("--card"), bordercolor: css("--line"), font: {color: css("--text")}, align: "left"},
    dragmode: narrow.matches ? false : "zoom",
  };
  Plotly.react(area, traces, about, {responsive: true, displayModeBar: false});
  area.removeAllListeners?.("plotly_click");
  area.on("plotly_click", event => {
    const run = event.points[0].customdata;
    if (run) location.hash = "run-" + run;
  });
};
const figures = [...document.querySelectorAll(".front")];
for (const figure of figures) {
  const data = JSON.parse(figure.querySelector("script").textContent), controls = figure.querySelector(".controls");
  if (!data.axes.length) { figure.hidden = true; continue; }
  const select = make("select", "", make("label", "Cost", controls));
  for (const axis of data.axes) select.append(new Option(axis.label + (axis.unit ? `, ${axis.unit}` : ""), axis.key));
  const log = document.createElement("input");
  Object.assign(log, {type: "checkbox", checked: true});
  make("label", "", controls).append(log, "logarithmic");
  const others = document.createElement("input"), count = data.others.published.length + data.others.claimed.length;
  Object.assign(others, {type: "checkbox", checked: data.others.shown && count > 0, className: "others"});
  const label = make("label", "", controls);
  label.append(others, "published and claimed");
  label.hidden = !count;
  controls.addEventListener("change", () => draw(figure));
  draw(figure);
}
const redraw = () => figures.filter(figure => !figure.hidden).forEach(draw);
dark.addEventListener("change", redraw);
narrow.addEventListener("change", redraw);
document.documentElement.dataset.ready = "yes";
