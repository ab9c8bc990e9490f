// What every panel has: a title, the age of what it shows, its state, and a table of the same numbers.
import { make, mark, put, table } from "../dom";
import { ageOf } from "../fresh";
import { ago } from "../format";
import type { Model } from "../model";
import type { Panel } from "../types";
import { named, t } from "../words";

export interface Twin { heads: string[]; rows: string[][] }
export abstract class View {
  readonly node: HTMLElement;
  protected readonly body: HTMLElement;
  private readonly title: HTMLElement;
  private readonly age: HTMLElement;
  private readonly twin: HTMLElement;
  private shownTwin = "";
  asTable = false;

  constructor(protected readonly model: Model, readonly panel: Panel) {
    this.node = make("section", `panel ${panel.kind}`);
    this.node.id = `panel-${panel.id.replace(".", "-")}`;
    const [column, row, columns, rows] = panel.area;
    this.node.style.gridArea = `${row} / ${column} / span ${rows} / span ${columns}`;
    const head = make("div", "panel-head");
    this.title = make("h2");
    this.age = make("span", "age");
    head.append(this.title, this.age);
    this.body = make("div", "panel-body");
    this.twin = make("div", "twin");
    this.twin.hidden = true;
    this.twin.tabIndex = 0;
    this.node.append(head, this.body, this.twin);
  }
  /** Once a second, and when something came. */
  draw(): void {
    put(this.title, this.heading());
    this.title.title = this.heading();
    this.node.setAttribute("aria-label", this.heading());
    const [old, text] = this.freshness();
    mark(this.node, "old", old);
    put(this.age, text);
    this.body.hidden = this.asTable;
    this.twin.hidden = !this.asTable;
    if (this.asTable) this.drawTwin();
    else this.show();
  }
  private drawTwin(): void {
    const twin = this.table(), now = JSON.stringify(twin);
    if (now === this.shownTwin) return;
    this.shownTwin = now;
    this.twin.replaceChildren(table(twin.heads, twin.rows));
  }
  protected heading(): string { return named(this.panel); }
  /** Whether what it shows is old, and how old: by the freshest of its readings of the city. */
  protected freshness(): [boolean, string] {
    const now = this.model.now();
    let old = false, newest = -Infinity;
    for (const name of this.shownIndicators()) {
      const indicator = this.model.indicators.get(name);
      if (!indicator) continue;
      const { main } = this.model.city(name);
      old ||= ageOf(main, indicator, now).old;
      if (main) newest = Math.max(newest, Date.parse(main.as_of ?? main.window_end));
    }
    return [old, now === null || newest === -Infinity ? "" : ago(now - newest)];
  }
  protected shownIndicators(): readonly string[] { return this.panel.indicators; }
  protected abstract show(): void;
  abstract table(): Twin;
  /** An alert came or went: what shows alerts draws them at once. */
  alerted(): void {}
  /** The room has another size, or the language changed. */
  resized(): void {}
  /** `M`: the next of what it can show. */
  next(): void {}
  close(): void {}
}
export function districtRows(model: Model, indicator: string): { id: string; name: string; value: number | null; old: boolean }[] {
  const known = model.indicators.get(indicator);
  return (model.catalogue?.city.districts ?? []).map((d) => {
    const { main } = model.shown(indicator, "district", d.id);
    return { id: d.id, name: named(d), value: main?.value ?? null, old: !!known && ageOf(main, known, model.now()).old };
  });
}
export function placeName(model: Model, kind: string, place: string): string {
  if (kind === "city") return t("city");
  const district = model.districts.get(place);
  return district ? named(district) : place;
}
