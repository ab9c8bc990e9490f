// The wall: one stream, one screen at a time, a tick a second. Everything that is shown comes from `Model`.
import "./style.css";
import { filled, find, make, mark, put } from "./dom";
import type { Evidence } from "./evidence";
import { clockText, figure, inCity, measure } from "./format";
import { whole } from "./fresh";
import { Link } from "./link";
import { Model } from "./model";
import type { View } from "./panels/panel";
import type { Screen } from "./types";
import { named, otherwise, speak, spoken, t, type Language } from "./words";

const params = new URLSearchParams(location.search);
const model = new Model();
const link = new Link(model, changed);
let drawing: typeof import("./drawn") | null = null;
let panels: typeof import("./panels") | null = null;
let evidence: Evidence | null = null;
const turnMs = 1000 * Number(params.get("rotate") ?? 0);
let views: View[] = [];
let shown = params.get("screen") ?? "overview";
let paused = false;
let asTables = params.has("table");
let turned = performance.now();
let drawn = "";
let state: ReturnType<typeof whole>[0] = "connecting";

function language(wanted: string): Language { return wanted.startsWith("zh") ? "zh-CN" : "en"; }
await speak(language(params.get("lang") ?? (navigator.language || "zh-CN")));

function remember(name: string, value: string): void {
  params.set(name, value);
  history.replaceState(null, "", `?${params}`);
}
function open(id: string): void { void evidence?.open(id); }
function screens(): Screen[] { return model.catalogue?.screens ?? []; }
function build(): void {
  const screen = screens().find((s) => s.id === shown) ?? screens()[0];
  document.documentElement.lang = spoken();
  if (!screen || !model.catalogue) return;
  inCity(model.catalogue.city.zone);
  for (const one of views) one.close();
  if (!panels) return;
  const { view } = panels;
  views = screen.panels.map((panel) => view(panel, { model, drawing, open, live: () => state === "live" }));
  for (const one of views) one.asTable = asTables;
  find("grid").replaceChildren(...views.map((v) => v.node));
  find("grid").dataset["screen"] = screen.id;
  drawn = `${screen.id} ${spoken()} ${JSON.stringify(screen)}`;
  const city = model.catalogue.city;
  put(find("title"), `${named(city)} · ${named(screen)}`);
  put(find("subtitle"), `${otherwise(city)} · ${otherwise(screen)}`);
  document.title = `${named(city)} · ${named(screen)}`;
  filled(find("tabs"), screens(), () => {
    const button = make("button");
    button.type = "button";
    button.addEventListener("click", () => choose(button.dataset["id"] ?? ""));
    return button;
  }, (node, s) => {
    node.dataset["id"] = s.id;
    put(node, `${screens().indexOf(s) + 1} ${named(s)}`);
    mark(node, "chosen", s.id === screen.id);
    node.setAttribute("aria-current", s.id === screen.id ? "page" : "false");
  });
  find("tabs").setAttribute("aria-label", t("screens"));
  draw();
}
function choose(id: string): void {
  if (!screens().some((s) => s.id === id)) return;
  shown = id;
  turned = performance.now();
  remember("screen", id);
  build();
}
function weather(): string {
  const parts: string[] = [];
  for (const [id, name] of [["aqi.realtime", "AQI"], ["rain.3h", t("rain")]] as const) {
    const indicator = model.indicators.get(id), main = indicator && model.city(id).main;
    if (indicator && main && main.value !== null) parts.push(`${name} ${figure(main.value, indicator)} ${measure(indicator)}`.trim());
  }
  const n = model.catalogue?.city.districts.length ?? 0;
  return [...parts, t("scope", n)].join(" · ");
}
function draw(): void {
  const [now, notice] = whole(model, link.closed, link.waited);
  state = now;
  const head = find("head");
  if (head.className !== now) head.className = now;
  document.body.dataset["state"] = now;
  put(find("chip"), paused ? `${t(now)} · ${t("paused")}` : t(now));
  put(find("notice"), notice);
  find("subtitle").hidden = !!notice;
  const at = model.now();
  if (at === null || !model.catalogue) return;
  put(find("clock"), clockText(at));
  put(find("weather"), weather());
  for (const one of views) one.draw();
}
function changed(what: "snapshot" | "delta" | "alert" | "hb"): void {
  if (what === "snapshot") {
    const screen = screens().find((s) => s.id === shown) ?? screens()[0];
    if (drawn !== `${screen?.id} ${spoken()} ${JSON.stringify(screen)}`) build();
  }
  if (what === "alert") for (const one of views) one.alerted();
  draw();
}
function urgent(): boolean { return [...model.alerts.values()].some((a) => a.level === "I" || a.level === "II"); }
function tick(): void {
  const reading = evidence?.shown ?? false;
  link.watch(reading);
  if (turnMs > 0 && !paused && !reading && !urgent() && performance.now() - turned > turnMs) {
    const all = screens(), at = all.findIndex((s) => s.id === shown);
    choose(all[(at + 1) % all.length]?.id ?? shown);
  }
  draw();
}
const KEYS: Record<string, () => void> = {
  " ": () => { paused = !paused; if (drawing) drawing.Lines.paused = paused; document.body.classList.toggle("paused", paused); draw(); },
  m: () => { for (const one of views) one.next(); },
  t: () => { asTables = !asTables; for (const one of views) one.asTable = asTables; draw(); },
  l: () => void speak(spoken() === "zh-CN" ? "en" : "zh-CN").then(() => { remember("lang", spoken()); build(); }),
  f: () => void (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
  a: () => document.querySelector<HTMLElement>(".alert")?.focus(),
  e: () => {
    const id = document.activeElement?.closest<HTMLElement>("li")?.dataset["id"] ?? panels?.ordered(model)[0]?.episode_id;
    if (id !== undefined) open(id);
  },
  "?": () => { find("keys").hidden = !find("keys").hidden; },
  Escape: () => { find("keys").hidden = true; if (evidence?.shown) evidence.close(); },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key], n = Number(event.key);
  if (event.key === " " && document.activeElement instanceof HTMLButtonElement) return;
  if (act) { event.preventDefault(); act(); }
  else if (n >= 1 && n <= screens().length) choose(screens()[n - 1]?.id ?? "");
  put(find("keys"), t("keys"));
});
const keys = make("p", "keys", t("keys"));
keys.id = "keys";
keys.hidden = true;
document.body.append(keys);
if (params.has("kiosk")) {
  document.body.classList.add("kiosk");
  navigator.wakeLock?.request("screen").catch(() => undefined);
}
new ResizeObserver(() => { for (const one of views) one.resized(); }).observe(document.documentElement);
document.documentElement.lang = spoken();
put(find("chip"), t("connecting"));
link.open();
setInterval(tick, 1000);
void import("./panels").then((module) => { panels = module; build(); });
// The numbers are on the glass before what draws is loaded.
void import("./drawn").then((module) => {
  drawing = module;
  evidence = new module.Evidence(model);
  module.Lines.paused = paused;
  build();
});
