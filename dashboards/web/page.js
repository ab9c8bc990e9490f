// The live page: one EventSource, text nodes only. Ages and states come from the run's clock, which every event carries.
"use strict";

const WORDS = {
  "zh-CN": {
    title: "城市运行实时数据", connecting: "连接中", pending: "等待数据", notReady: "运行未就绪，数据可能停滞（原因见 /readyz）", live: "实时", stale: "数据滞后", disconnected: "连接中断",
    stalled: "系统停滞", stalledLoop: "系统停滞 {0}：处理循环无响应，画面不再更新", stalledStore: "系统停滞 {0}：存储未完成写入，终值不再更新",
    lost: "连接中断，正在重连｜画面为 {0}前的数据", slow: "数据滞后｜画面为 {0}前", waiting: "尚无数据：等待第一批读数",
    alerts: "当前预警", noAlerts: "当前无有效预警 ✓", maybeMore: "列表可能不完整", districts: "各区", sources: "数据来源",
    place: "区", value: "数值", age: "时间", state: "状态", stream: "数据流", last: "最近数据", lateShare: "迟到占比",
    refused: "拒收", behind: "水位", degraded: "降级", no_data: "无数据", since: "自 {0}", silent: "静默", provisional: "暂定",
    old: "陈旧", complete: "完整度 {0}", now: "刚刚", ago: "{0}前", s: "{0} 秒", m: "{0} 分", h: "{0} 小时", d: "{0} 天",
    threshold: "阈值", city: "全市", none: "—", other: "English", otherLabel: "Switch to English", until: "至 {0}",
    levels: { I: "Ⅰ级 红", II: "Ⅱ级 橙", III: "Ⅲ级 黄", IV: "Ⅳ级 蓝", no_data: "无数据" }, noReading: "尚无读数", noStreams: "尚无数据",
  },
  "en-US": {
    title: "Live city operations", connecting: "Connecting", pending: "Waiting for data",
    notReady: "The run is not ready, numbers may be stuck (why: /readyz)", live: "Live", stale: "Data is old", disconnected: "Disconnected",
    stalled: "No progress", stalledLoop: "No progress for {0}: the loop stands still, nothing on this page moves",
    stalledStore: "No progress for {0}: the store does not finish its writes, final numbers stand still",
    lost: "Connection lost, reconnecting | showing data from {0} ago", slow: "Data is old | from {0} ago",
    waiting: "No data yet: waiting for the first readings", alerts: "Open alerts", noAlerts: "no open alerts ✓",
    maybeMore: "the list may be incomplete", districts: "Districts", sources: "Sources", place: "District", value: "Value",
    age: "Age", state: "State", stream: "Stream", last: "Last event", lateShare: "Late", refused: "Refused", behind: "Watermark",
    degraded: "degraded", no_data: "no data", since: "since {0}", silent: "silent", provisional: "provisional", old: "stale",
    complete: "{0} complete", now: "just now", ago: "{0} ago", s: "{0} s", m: "{0} min", h: "{0} h", d: "{0} d",
    threshold: "threshold", city: "Whole city", none: "—", other: "中文", otherLabel: "切换为中文", until: "to {0}",
    levels: { I: "Level I Red", II: "Level II Orange", III: "Level III Yellow", IV: "Level IV Blue", no_data: "No data" },
    noReading: "no reading yet", noStreams: "no data yet",
  },
};
const SHAPES = { I: "■", II: "▲", III: "◆", IV: "●", no_data: "○" };
const REASONS = {
  no_weight: ["权重缺失", "no weight"], too_few_samples: ["样本不足", "too few samples"], incomplete: ["窗口未完成", "incomplete"],
  input_ended: ["输入已结束", "input ended"], not_collected: ["未采集", "not collected"], no_attribute: ["缺少属性", "attribute missing"], no_capacity: ["容量未知", "capacity unknown"], none_open: ["无在办件", "none open"],
  coarse_time: ["时间精度不足", "times too coarse"], above_capacity: ["超过容量", "above capacity"], not_publishable: ["按标准不发布", "NA by the standard"],
};
const LOST_AFTER_S = 15;
const params = new URLSearchParams(location.search);
const asked = params.get("lang") || navigator.language || "zh-CN";
let lang = asked.startsWith("zh") ? "zh-CN" : "en-US";

const state = {
  catalogue: null, ready: null, stalled: null, byId: new Map(), districts: new Map(), final: new Map(), provisional: new Map(), alerts: new Map(),
  streams: {}, build: null, chosen: params.get("indicator"), skew: null, speed: 1, heard: null, source: null, retry: 1, started: Date.now(),
};
const $ = (id) => document.getElementById(id);
const t = (key, ...args) => args.reduce((text, arg, i) => text.replace(`{${i}}`, arg), WORDS[lang][key]);
const zh = () => lang === "zh-CN";
const named = (thing) => (zh() ? thing.zh : thing.en);
const key = (indicator, kind, place) => `${indicator}\n${kind}\n${place}`;
const keyOf = (r) => key(r.indicator, r.place_kind, r.place);

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}
function put(node, text) { if (node.textContent !== text) node.textContent = text; }
function mark(node, name, on) { node.classList.toggle(name, Boolean(on)); }

// --- clock: the run's, which may be simulated and faster than ours -----------------------------------------------
function hear(payload) {
  state.heard = performance.now();
  state.skew = { sent: payload.sent, at: state.heard };
  state.speed = payload.speed || 1;
}
function now() {
  return state.skew ? state.skew.sent + (performance.now() - state.skew.at) * state.speed : null;
}
function duration(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 120) return t("s", s);
  if (s < 7200) return t("m", Math.floor(s / 60));
  if (s < 172800) return t("h", Math.floor(s / 3600));
  return t("d", Math.floor(s / 86400));
}
function ago(ms) { return ms < 5000 ? t("now") : t("ago", duration(ms)); }
const clocks = new Map();
const DATE = { year: "numeric", month: "2-digit", day: "2-digit" };
const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
function inZone(ms, options, locale = lang) {
  const zone = state.catalogue ? state.catalogue.city.zone : "UTC";
  const name = locale + zone + JSON.stringify(options);
  if (!clocks.has(name)) clocks.set(name, new Intl.DateTimeFormat(locale, { timeZone: zone, hourCycle: "h23", ...options }));
  return clocks.get(name).format(ms);
}
const hhmm = (iso) => inZone(Date.parse(iso), { hour: "2-digit", minute: "2-digit" });

// --- values ------------------------------------------------------------------------------------------------------
function number(value, decimals) {
  return new Intl.NumberFormat(lang, { minimumFractionDigits: decimals, maximumFractionDigits: decimals }).format(value);
}
function figure(reading, indicator) {
  if (!reading || reading.value === null) return t("none");
  return number(reading.value, indicator.decimals);
}
// Indices and shares have no unit; their scale (0-10) is shown on the tile only.
const SCALE = /^(\d+-\d+|code \d+-\d+|index|1|-)$/;
const UNITS_ZH = { "veh/h": "辆/小时", min: "分钟", s: "秒", "cm/min": "cm/分钟" };
function unit(indicator) {
  if (SCALE.test(indicator.unit)) return "";
  return (zh() && UNITS_ZH[indicator.unit]) || indicator.unit;
}
function scale(indicator) { return /\d-\d/.test(indicator.unit) ? indicator.unit.replace("code ", "").replace("-", "–") : ""; }
function percent(share) { return new Intl.NumberFormat(lang, { style: "percent", maximumFractionDigits: 1 }).format(share); }
function reason(reading) {
  const given = reading.detail && reading.detail.reason;
  if (!given || given === "provisional") return "";
  return given in REASONS ? REASONS[given][zh() ? 0 : 1] : String(given);
}
// What is shown of a cell: the final reading, or the provisional one while there is no final one.
function shown(indicator, kind, place) {
  const k = key(indicator.id, kind, place);
  const final = state.final.get(k), provisional = state.provisional.get(k);
  return { main: final || provisional, ahead: final ? provisional : undefined };
}
function ageOf(reading, indicator) {
  const at = now();
  const since = reading ? at - Date.parse(reading.window_end) : Infinity;
  return {
    old: reading && since > indicator.stale_after_s * 1000,
    silent: reading && since > indicator.no_data_after_s * 1000,
    text: reading ? (reading.as_of ? ago(at - Date.parse(reading.as_of)) : "") : "",
  };
}
function placeName(kind, place) {
  if (kind === "city") return t("city");
  const district = state.districts.get(place);
  return district ? named(district) : place;
}

// --- building: once per catalogue or language ----------------------------------------------------------------------
const tiles = new Map();
function build() {
  document.documentElement.lang = lang;
  const c = state.catalogue;
  put($("title"), c ? (zh() ? `${c.city.zh} · ` : `${c.city.en} · `) + t("title") : t("title"));
  put($("subtitle"), c ? (zh() ? c.city.en : c.city.zh) + ` · ${c.city.zone}` : "");
  document.title = $("title").textContent;
  put($("lang"), t("other"));
  $("lang").setAttribute("aria-label", t("otherLabel"));
  put($("alerts-title"), t("alerts"));
  put($("districts-title"), t("districts"));
  put($("sources-title"), t("sources"));
  $("chosen").setAttribute("aria-label", t("districts"));
  heads($("districts-head"), ["place", "value", "state", "age"], 1);
  heads($("sources-head"), ["stream", "last", "behind", "lateShare", "refused"], 1);
  if (!c) return;
  tiles.clear();
  $("domains").replaceChildren();
  for (const domain of c.domains) {
    const own = c.indicators.filter((i) => i.domain === domain.id && i.levels.includes("city"));
    if (!own.length) continue;
    const section = element("section", own.length <= 2 ? "panel few" : "panel");
    const head = element("h2", "", named(domain));
    head.append(element("span", "domain-en", zh() ? domain.en : domain.zh), element("span", "domain-place", t("city")));
    const grid = element("div", "tiles");
    section.append(head, grid);
    for (const indicator of own) grid.append(newTile(indicator));
    $("domains").append(section);
  }
  $("chosen").replaceChildren();
  const grouped = c.domains.map((d) => [d, c.indicators.filter((i) => i.domain === d.id && i.levels.includes("district"))]).filter(([, own]) => own.length);
  for (const [domain, own] of grouped) {
    const group = element("optgroup");
    group.label = named(domain);
    for (const indicator of own) {
      const option = element("option", "", named(indicator));
      option.value = indicator.id;
      group.append(option);
    }
    $("chosen").append(group);
  }
  const first = grouped.length ? grouped[0][1][0].id : null;
  if (!grouped.some(([, own]) => own.some((i) => i.id === state.chosen))) state.chosen = first;
  if (state.chosen) $("chosen").value = state.chosen;
}
function heads(row, names, numeric) {
  row.replaceChildren(...names.map((name, i) => element("th", i >= numeric ? "right-aligned" : "", t(name))));
}
function newTile(indicator) {
  const node = element("article", "tile");
  const parts = {
    node, name: element("div", "name", named(indicator)), en: element("div", "en", zh() ? indicator.en : indicator.zh),
    number: element("div", "number"), value: element("span"), unit: element("span", "unit", unit(indicator) || scale(indicator)), notes: element("div", "notes"),
  };
  node.title = `${indicator.zh} / ${indicator.en}\n${indicator.id} · ${indicator.method_id}`;
  parts.number.append(parts.value, parts.unit);
  node.append(parts.name, parts.en, parts.number, parts.notes);
  tiles.set(indicator.id, parts);
  return node;
}

// --- drawing: once a second ------------------------------------------------------------------------------------------
function drawTile(indicator) {
  const parts = tiles.get(indicator.id);
  const place = cityPlace(indicator);
  const { main, ahead } = shown(indicator, "city", place);
  const age = ageOf(main, indicator);
  const text = figure(main, indicator);
  mark(parts.node, "fresh", parts.value.textContent && parts.value.textContent !== text);
  put(parts.value, text);
  parts.unit.hidden = !main || main.value === null;
  mark(parts.node, "none", !main || main.value === null);
  mark(parts.node, "degraded", main && main.state === "degraded");
  mark(parts.node, "provisional", main && main.provisional);
  mark(parts.node, "old", age.old);
  const notes = stateNotes(main, age, indicator);
  if (ahead && ahead.value !== null) {
    notes.push(["ahead", `${t("provisional")} ${figure(ahead, indicator)} ${unit(indicator)} · ${t("until", hhmm(ahead.window_end))}`]);
  }
  redo(parts.notes, notes);
}
function stateNotes(reading, age, indicator) {
  if (!reading) return [["age", t("noReading")]];
  const notes = [];
  if (reading.state === "no_data") {
    notes.push(["word", t("no_data")], ["age", t("since", hhmm(reading.no_data_since || reading.window_end))]);
  } else {
    notes.push(["age", age.text]);
    // A provisional reading is degraded by being provisional; that has its own word.
    if (reading.state === "degraded" && !(reading.detail && reading.detail.reason === "provisional")) notes.push(["word word-degraded", t("degraded")]);
  }
  if (age.silent) notes.push(["word", `${t("silent")} · ${t("since", hhmm(reading.window_end))}`]);
  else if (age.old) notes.push(["word", t("old")]);
  if (reading.provisional) notes.push(["word word-provisional", t("provisional")]);
  if (reason(reading)) notes.push(["reason", reason(reading)]);
  if (reading.completeness !== null && reading.completeness < 0.95 && reading.state !== "no_data") {
    notes.push(["complete", t("complete", percent(reading.completeness))]);
  }
  return notes;
}
function redo(node, notes) {
  const wanted = notes.filter(([, text]) => text);
  while (node.children.length > wanted.length) node.lastChild.remove();
  wanted.forEach(([className, text], i) => {
    let child = node.children[i];
    if (!child) node.append((child = element("span")));
    if (child.className !== className) child.className = className;
    put(child, text);
  });
}
function cityPlace(indicator) {
  if (state.final.has(key(indicator.id, "city", state.catalogue.city.id))) return state.catalogue.city.id;
  for (const map of [state.final, state.provisional]) {
    for (const r of map.values()) if (r.place_kind === "city" && r.indicator === indicator.id) return r.place;
  }
  return state.catalogue.city.id;
}
function rowsOf(body, count) {
  while (body.children.length > count) body.lastChild.remove();
  while (body.children.length < count) body.append(element("tr"));
  return [...body.children];
}
function cells(row, values) {
  while (row.children.length > values.length) row.lastChild.remove();
  values.forEach(([text, className], i) => {
    let cell = row.children[i];
    if (!cell) row.append((cell = element("td")));
    if (cell.className !== className) cell.className = className;
    put(cell, text);
  });
}
function drawDistricts() {
  const indicator = state.byId.get(state.chosen);
  const places = indicator ? state.catalogue.city.districts : [];
  const rows = rowsOf($("districts"), places.length);
  places.forEach((district, i) => {
    const { main } = shown(indicator, "district", district.id);
    const age = ageOf(main, indicator);
    mark(rows[i], "old", age.old);
    const words = stateNotes(main, age, indicator).filter(([c]) => c !== "age").map(([, text]) => text);
    const empty = !main || main.value === null;
    const suffix = unit(indicator) && !empty ? ` ${unit(indicator)}` : "";
    cells(rows[i], [
      [named(district), ""], [figure(main, indicator) + suffix, `right-aligned figure${empty ? " none" : ""}`],
      [main ? words.join(" · ") : t("noReading"), "right-aligned small"], [age.text, "right-aligned small age"],
    ]);
  });
}
function drawAlerts() {
  const order = { I: 0, II: 1, III: 2, IV: 3 };
  const open = [...state.alerts.values()].sort(
    (a, b) => (order[a.level] ?? 9) - (order[b.level] ?? 9) || Date.parse(b.started_at) - Date.parse(a.started_at),
  );
  put($("alerts-count"), open.length ? String(open.length) : "");
  const name = $("head").className;
  const lost = name === "disconnected" || name === "stale" || name === "stalled";
  $("alerts-empty").hidden = open.length > 0 && !lost;
  put($("alerts-empty"), lost ? t("maybeMore") : name === "live" ? t("noAlerts") : t("none"));
  mark($("alerts-empty"), "none", name !== "live");
  const list = $("alerts");
  const visible = open.slice(0, 200);
  while (list.children.length > visible.length) list.lastChild.remove();
  visible.forEach((alert, i) => {
    let item = list.children[i];
    if (!item) {
      item = element("li");
      item.append(element("span", "shape"), element("span", "what"), element("span", "since"), element("span", "why"));
      list.append(item);
    }
    const [shape, what, since, why] = item.children;
    const indicator = state.byId.get(alert.indicator);
    put(shape, SHAPES[alert.level] || "?");
    shape.className = `shape level-${alert.level}`;
    put(what, `${WORDS[lang].levels[alert.level] || alert.level} · ${placeName(alert.place_kind, alert.place)}`);
    what.className = `what level-${alert.level}`;
    put(since, `${hhmm(alert.started_at)} · ${duration(now() - Date.parse(alert.started_at))}`);
    const decimals = indicator ? indicator.decimals : 1;
    const value = alert.last_value === null || alert.last_value === undefined ? t("none") : number(alert.last_value, decimals);
    const limit = alert.threshold === null || alert.threshold === undefined ? "" : ` · ${t("threshold")} ${number(alert.threshold, decimals)}`;
    put(why, `${indicator ? named(indicator) : alert.indicator} ${value}${indicator ? " " + unit(indicator) : ""}${limit}`);
  });
}
function drawSources() {
  const names = Object.keys(state.streams).sort();
  const rows = rowsOf($("sources"), Math.max(1, names.length));
  if (!names.length) return cells(rows[0], [[t("noStreams"), "small"]]);
  names.forEach((name, i) => {
    const s = state.streams[name];
    const past = (iso) => (iso ? ago(now() - Date.parse(iso)) : t("none"));
    const refused = (s.rejected || 0) + (s.quarantined || 0);
    rows[i].title = (s.notes || []).join("\n");
    cells(rows[i], [
      [s.notes ? `${name} ⚠` : name, ""], [past(s.last_event_at), "right-aligned small"], [past(s.watermark), "right-aligned small"],
      [s.accepted ? percent((s.late || 0) / s.accepted) : t("none"), "right-aligned small"],
      [number(refused, 0), "right-aligned small"],
    ]);
  });
}
function connection() {
  const silent = state.heard === null ? Infinity : (performance.now() - state.heard) / 1000;
  if (state.skew === null) return ["connecting", Date.now() - state.started > 10000 ? t("waiting") : ""];
  if (silent > LOST_AFTER_S || (state.source && state.source.readyState === EventSource.CLOSED)) {
    return ["disconnected", t("lost", duration(silent * 1000))];
  }
  if (state.stalled) {
    const since = duration(state.stalled.for_s * 1000 + performance.now() - state.stalled.at);
    return ["stalled", t(state.stalled.part === "store" ? "stalledStore" : "stalledLoop", since)];
  }
  const readings = [...state.final.values(), ...state.provisional.values()];
  if (!readings.length) return ["pending", t("waiting")];
  const fresh = readings.some((r) => state.byId.has(r.indicator) && !ageOf(r, state.byId.get(r.indicator)).old);
  if (!fresh) {
    const last = Math.max(...readings.map((r) => Date.parse(r.window_end)));
    return ["stale", t("slow", duration(now() - last))];
  }
  return ["live", state.ready === false ? t("notReady") : ""];
}
function draw() {
  const [name, notice] = connection();
  if ($("head").className !== name) $("head").className = name;
  put($("chip"), t(name));
  put($("notice"), notice);
  if (!state.catalogue) return;
  const at = now();
  put($("clock"), `${inZone(at, DATE, "sv-SE")} ${inZone(at, { weekday: "short" })} ${inZone(at, TIME, "sv-SE")}`);
  for (const id of tiles.keys()) drawTile(state.byId.get(id));
  drawDistricts();
  drawAlerts();
  drawSources();
}

// --- the stream ------------------------------------------------------------------------------------------------------
function take(readings) {
  for (const r of readings) (r.provisional ? state.provisional : state.final).set(keyOf(r), r);
}
function snapshot(p) {
  state.catalogue = p.catalogue;
  state.byId = new Map(p.catalogue.indicators.map((i) => [i.id, i]));
  state.districts = new Map(p.catalogue.city.districts.map((d) => [d.id, d]));
  state.final.clear();
  state.provisional.clear();
  take(p.readings);
  state.alerts = new Map(p.alerts.map((a) => [a.episode_id, a]));
  state.streams = p.streams;
  build();
}
const ON = {
  snapshot,
  delta(p) {
    take(p.readings);
    for (const [indicator, kind, place] of p.gone) state.provisional.delete(key(indicator, kind, place));
    state.streams = p.streams;
  },
  alert(p) {
    for (const e of p.episodes) {
      if (e.state === "firing") state.alerts.set(e.episode_id, e);
      else state.alerts.delete(e.episode_id);
    }
  },
  hb(p) {
    state.ready = p.ready;
    state.stalled = p.stalled ? { ...p.stalled, at: performance.now() } : null;
    if (state.build !== null && p.build !== state.build) location.reload();
    state.build = p.build;
  },
  reset() {},
};
function connect() {
  if (state.source) state.source.close();
  const source = (state.source = new EventSource("/api/v1/stream"));
  for (const name of Object.keys(ON)) {
    source.addEventListener(name, (event) => {
      const payload = JSON.parse(event.data);
      const first = state.skew === null;
      // A snapshot may have been encoded a while ago: it sets the clock only when nothing else has.
      if (name !== "snapshot" || first) hear(payload);
      else state.heard = performance.now();
      state.retry = 1;
      ON[name](payload);
      if (name === "snapshot" || name === "alert" || name === "hb") draw();
    });
  }
}
function watch() {
  const silent = state.heard === null ? (Date.now() - state.started) / 1000 : (performance.now() - state.heard) / 1000;
  const closed = state.source.readyState === EventSource.CLOSED;
  if ((closed || silent > LOST_AFTER_S) && performance.now() > (state.next || 0)) {
    state.retry = Math.min(30, state.retry * 2);
    state.next = performance.now() + 1000 * (state.retry + Math.random());
    connect();
  }
}
$("lang").addEventListener("click", () => {
  lang = zh() ? "en-US" : "zh-CN";
  params.set("lang", lang);
  history.replaceState(null, "", `?${params}`);
  build();
  draw();
});
$("chosen").addEventListener("change", () => {
  state.chosen = $("chosen").value;
  params.set("indicator", state.chosen);
  history.replaceState(null, "", `?${params}`);
  drawDistricts();
});
build();
draw();
connect();
setInterval(() => { watch(); draw(); }, 1000);
