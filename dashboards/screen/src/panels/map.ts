import { registerMap, type MapSource, type Option } from "../charts";
import { BACK, DIM, LEVEL, NONE, OTHERS, rem, SYMBOL, TEXT, TRAFFIC } from "../colours";
import { filled, make, mark, put } from "../dom";
import { figure, number, unit } from "../format";
import type { Model } from "../model";
import type { Indicator, Panel } from "../types";
import { named, t } from "../words";
import { ordered } from "./alerts";
import { ChartView } from "./chart";
import { districtRows, type Twin } from "./panel";

type Outlines = { features: { id: string; geometry: { type: string; coordinates: unknown } }[] };
let outlines: Promise<Outlines | null> | null = null;
function loaded(): Promise<Outlines | null> {
  return (outlines ??= fetch("/api/v1/map").then((answer) => (answer.ok ? (answer.json() as Promise<Outlines>) : null), () => null));
}
/** Districts by one indicator, the value printed on each, and the open alerts on top; without outlines, a list. */
export class Districts extends ChartView {
  private layer = 0;
  private centres = new Map<string, [number, number]>();
  /** Width by height of the outlines, a degree of longitude being `narrow` of one of latitude. */
  private shape = 1;
  private narrow = 1;
  private known = false;
  private readonly tabs = make("div", "layers");
  private readonly legend = make("ul", "legend");
  private readonly list = make("div", "district-list");

  constructor(model: Model, panel: Panel) {
    super(model, panel);
    this.body.append(this.tabs, this.legend, this.list);
  }
  private get indicator(): Indicator | undefined { return this.model.indicators.get(this.panel.indicators[this.layer % this.panel.indicators.length] ?? ""); }
  protected override shownIndicators(): readonly string[] { return this.indicator ? [this.indicator.id] : []; }
  protected override heading(): string {
    const i = this.indicator;
    return i ? `${named(this.panel)} · ${named(i)}${unit(i) ? ` (${unit(i)})` : ""}` : named(this.panel);
  }
  override next(): void { this.layer = (this.layer + 1) % this.panel.indicators.length; this.resized(); this.draw(); }
  protected override async ready(): Promise<void> {
    const found = this.model.catalogue?.city.outlined ? await loaded() : null;
    if (!found) return;
    await super.ready();
    if (this.known) return;
    this.known = true;
    registerMap("city", found as unknown as MapSource);
    for (const f of found.features) this.centres.set(f.id, boxOf(f.geometry.coordinates).middle);
    const whole = boxOf(found.features.map((f) => f.geometry.coordinates));
    this.narrow = Math.cos((whole.middle[1] * Math.PI) / 180);
    this.shape = (whole.width * this.narrow) / whole.height;
  }
  protected override show(): void {
    super.show();
    this.drawTabs();
    const indicator = this.indicator, outlined = !!this.model.catalogue?.city.outlined;
    this.list.hidden = outlined;
    this.room.hidden = !outlined;
    if (!indicator) return;
    const steps = bands(indicator), colours = ramp(indicator);
    const names = steps.map((band) => {
      if (band[0] === -Infinity) return `< ${number(band[1], tidy(band[1]))}`;
      return band[1] === Infinity ? `≥ ${number(band[0], tidy(band[0]))}` : `${number(band[0], tidy(band[0]))}–${number(band[1], tidy(band[1]))}`;
    });
    this.legend.hidden = !outlined || steps.length < 2;
    filled(this.legend, names, () => { const li = make("li"); li.append(make("i"), make("span")); return li; }, (node, text) => {
      (node.firstElementChild as HTMLElement).style.background = colours[names.indexOf(text)] ?? NONE;
      put(node.lastElementChild as Element, text);
    });
    if (!outlined) this.drawList(indicator);
  }
  private drawTabs(): void {
    const mine = this.panel.indicators.flatMap((id) => this.model.indicators.get(id) ?? []);
    filled(this.tabs, mine, () => {
      const button = make("button", "layer");
      button.type = "button";
      button.addEventListener("click", () => { this.layer = Number(button.dataset["n"]); this.resized(); this.draw(); });
      return button;
    }, (node, i) => {
      const n = mine.indexOf(i);
      node.dataset["n"] = String(n);
      put(node, named(i));
      mark(node, "chosen", n === this.layer);
      node.setAttribute("aria-pressed", String(n === this.layer));
    });
  }
  private drawList(indicator: Indicator): void {
    filled(this.list, districtRows(this.model, indicator.id), () => {
      const node = make("div", "value-line");
      node.append(make("span", "name"), make("span", "value"));
      return node;
    }, (node, row) => {
      put(node.children[0] as Element, row.name);
      put(node.children[1] as Element, figure(row.value, indicator));
      mark(node, "old", row.old);
    });
  }
  protected option(): Option | null {
    const indicator = this.indicator;
    if (!this.known || !indicator) return null;
    const steps = bands(indicator), colours = ramp(indicator), size = rem(1);
    const rows = districtRows(this.model, indicator.id);
    const worst = new Map<string, string>();
    for (const alert of ordered(this.model)) {
      const district = alert.place_kind === "district" ? alert.place : alert.district;
      if (district && !worst.has(district)) worst.set(district, alert.level);
    }
    return {
      animation: false,
      visualMap: {
        show: false, type: "piecewise", seriesIndex: 0, outOfRange: { color: NONE },
        pieces: steps.map(([from, to], n) => ({ ...(from === -Infinity ? {} : { gte: from }), ...(to === Infinity ? {} : { lt: to }), color: colours[n] })),
      },
      geo: {
        map: "city", roam: false, silent: true, aspectScale: this.narrow, layoutCenter: ["50%", "53%"], layoutSize: this.size(),
        itemStyle: { areaColor: NONE, borderColor: BACK, borderWidth: 2 },
        label: {
          show: true, color: TEXT, fontSize: size, fontWeight: 600, textBorderColor: BACK, textBorderWidth: 3, lineHeight: size * 1.25,
          formatter: (p: { name: string }) => {
            const row = rows.find((r) => r.id === p.name);
            return row ? `${row.name}\n${row.old ? "▨ " : ""}${figure(row.value, indicator)}` : "";
          },
        },
        regions: rows.flatMap((r) => (r.old ? [{ name: r.id, itemStyle: { opacity: 0.55, borderType: "dashed", borderColor: "#ff922b" } }] : [])),
      },
      series: [
        { type: "map", geoIndex: 0, data: rows.map((r) => ({ name: r.id, value: r.value ?? NaN })), labelLayout: { hideOverlap: true } },
        {
          type: "scatter", coordinateSystem: "geo", silent: true, symbolSize: rem(1.3), z: 5,
          data: [...worst].flatMap(([place, level]) => {
            const at = this.centres.get(place);
            return at ? [{ value: at, symbol: SYMBOL[level] ?? "circle", symbolOffset: [0, "-190%"], itemStyle: { color: LEVEL[level], borderColor: BACK, borderWidth: 1.5 } }] : [];
          }),
        },
      ],
      textStyle: { color: DIM },
    } as Option;
  }
  /** Of the longer side of the outlines, so that they fit below the tabs. */
  private size(): number {
    const width = this.room.clientWidth - rem(2), height = this.room.clientHeight - rem(3.6);
    const across = Math.min(width, height * this.shape);
    return this.shape >= 1 ? across : across / this.shape;
  }
  table(): Twin {
    const mine = this.panel.indicators.flatMap((id) => this.model.indicators.get(id) ?? []);
    const columns = mine.map((i) => districtRows(this.model, i.id));
    const rows = (columns[0] ?? []).map((row, n) => [row.name, ...mine.map((i, c) => figure(columns[c]?.[n]?.value, i))]);
    return { heads: [t("district"), ...mine.map((i) => `${named(i)} ${unit(i)}`.trim())], rows };
  }
}
/** The bands of an indicator by its thresholds, at most five. */
function bands(indicator: Indicator): [number, number][] {
  const limits = indicator.thresholds.values.slice(0, 4);
  return [-Infinity, ...limits].map((from, n) => [from, limits[n] ?? Infinity]);
}
function ramp(indicator: Indicator): string[] {
  const n = Math.min(5, indicator.thresholds.values.length + 1);
  const traffic = indicator.domain === "traffic" && indicator.good === "down";
  const own = traffic ? TRAFFIC : OTHERS;
  const chosen = n >= 5 ? own : Array.from({ length: n }, (_, k) => own[n === 1 ? 1 : Math.round((k * (own.length - 1)) / (n - 1))] as string);
  return indicator.good === "up" && indicator.domain === "traffic" ? [...chosen].reverse() : chosen;
}
function tidy(value: number): number { return Number.isInteger(value) ? 0 : 2; }
function boxOf(coordinates: unknown): { middle: [number, number]; width: number; height: number } {
  let [west, south, east, north] = [Infinity, Infinity, -Infinity, -Infinity];
  const walk = (x: unknown): void => {
    if (!Array.isArray(x)) return;
    if (typeof x[0] !== "number") return x.forEach(walk);
    const [lon, lat] = x as [number, number];
    [west, east, south, north] = [Math.min(west, lon), Math.max(east, lon), Math.min(south, lat), Math.max(north, lat)];
  };
  walk(coordinates);
  return { middle: [(west + east) / 2, (south + north) / 2], width: east - west, height: north - south };
}
