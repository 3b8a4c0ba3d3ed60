// The live part of the start page. Texts from the store reach the page as text only, never as markup.
"use strict";
(() => {
  const REFRESH_MS = 5000, RANGE_S = 900, STEP_S = 5, MAX_LINES = 5, SVG = "http://www.w3.org/2000/svg";
  const prefix = document.body.dataset.prefix;
  const at = (id) => document.getElementById(id);

  const get = async (path, parameters) => {
    const query = parameters ? "?" + new URLSearchParams(parameters) : "";
    const answer = await fetch(prefix + "/api/v1/" + path + query, { headers: { Accept: "application/json" } });
    const body = await answer.json();
    if (body.status !== "success") throw new Error(body.error || "HTTP " + answer.status);
    return body.data;
  };

  const short = (n) => {
    if (!Number.isFinite(n)) return String(n);
    for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) if (Math.abs(n) >= size) return (n / size).toPrecision(3) + unit;
    return Number(n.toPrecision(3)).toString();
  };

  const node = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const nameOf = (metric) => {
    const labels = Object.entries(metric).filter(([k]) => k !== "__name__").map(([k, v]) => k + "=" + JSON.stringify(v));
    return (metric.__name__ || "") + (labels.length ? "{" + labels.join(", ") + "}" : "");
  };

  const draw = (series, start, end) => {
    const [left, right, top, bottom] = [56, 790, 10, 196];
    const lines = series.slice(0, MAX_LINES).map((s) => s.values.map(([t, v]) => [t, Number(v)]));
    const values = lines.flat().map(([, v]) => v).filter(Number.isFinite);
    let [low, high] = [Math.min(0, ...values), Math.max(...values, 0)];
    if (low === high) high = low + 1;
    const x = (t) => left + ((t - start) / (end - start)) * (right - left);
    const y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
    const parts = [];
    for (let i = 0; i <= 4; i++) {
      const value = low + ((high - low) * i) / 4;
      parts.push(node("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }));
      parts.push(node("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
    }
    for (let i = 0; i <= 3; i++) {
      const t = start + ((end - start) * i) / 3;
      const anchor = i === 0 ? "start" : i === 3 ? "end" : "middle";
      parts.push(node("text", { x: x(t), y: 214, "text-anchor": anchor }, new Date(t * 1000).toLocaleTimeString()));
    }
    lines.forEach((points, i) => {
      let path = "", last = -Infinity;
      for (const [t, v] of points) {
        if (!Number.isFinite(v)) continue;
        path += (t - last > STEP_S * 1.5 ? "M" : "L") + x(t).toFixed(1) + " " + y(v).toFixed(1);
        last = t;
      }
      const line = node("path", { class: "line c" + i, d: path });
      line.append(node("title", {}, nameOf(series[i].metric)));
      parts.push(line);
    });
    at("chart").replaceChildren(...parts);
  };

  const chart = async () => {
    const expr = at("expr").value.trim();
    if (!expr) return;
    const end = Math.floor(Date.now() / 1000 / STEP_S) * STEP_S, start = end - RANGE_S;
    try {
      const data = await get("query_range", { query: expr, start, end, step: STEP_S, limit: 100 });
      const series = data.result.filter((s) => s.values);
      if (series.length === 0) {
        at("chart-text").textContent = "No data yet. Isobar's own metrics come every few seconds and a rate needs two of them.";
        return;
      }
      draw(series, start, end);
      const shown = series.slice(0, MAX_LINES).map((s) => (nameOf(s.metric) || "value") + " = " + short(Number(s.values[s.values.length - 1][1])));
      const more = series.length > MAX_LINES ? " and " + (series.length - MAX_LINES) + " more series that are not drawn" : "";
      at("chart-text").textContent = "Last 15 minutes: " + shown.join("; ") + more;
    } catch (error) {
      at("chart-text").textContent = String(error.message || error);
    }
  };

  const numbers = async () => {
    try {
      const now = await get("status/store");
      at("state").textContent = "ready";
      at("series").textContent = now.series.toLocaleString();
      at("rate").textContent = now.samplesPerSecond === null ? "–" : short(now.samplesPerSecond);
      at("blocks").textContent = now.blocks.toLocaleString();
      at("size").textContent = now.sizeText;
      at("backlog").textContent = now.backlogText;
      at("uptime").textContent = now.uptimeText;
    } catch {
      at("state").textContent = "not answering";
    }
  };

  const refresh = () => { if (!document.hidden) { chart(); numbers(); } };
  at("ask").addEventListener("submit", (event) => { event.preventDefault(); chart(); });
  document.querySelector("[data-copy]").addEventListener("click", async (event) => {
    try {
      await navigator.clipboard.writeText(at(event.target.dataset.copy).textContent);
      at("copied").textContent = "copied";
    } catch {
      at("copied").textContent = "select the text and copy it; this browser does not allow it here";
    }
  });
  refresh();
  setInterval(refresh, REFRESH_MS);
})();
