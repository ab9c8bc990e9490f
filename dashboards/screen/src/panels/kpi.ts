import { make, mark, put } from "../dom";
import { figure, number, unit } from "../format";
import { ageOf, notes } from "../fresh";
import type { Model } from "../model";
import type { Indicator, Panel } from "../types";
import { named, t } from "../words";
import { View, type Twin } from "./panel";

const HOUR_MS = 3_600_000;
/** One indicator of the city: number, unit, change against an hour ago, and what is to be said of it. */
export class Kpi extends View {
  private readonly value = make("span", "value");
  private readonly unit = make("span", "unit");
  private readonly change = make("span", "change");
  private readonly words = make("span", "words");

  constructor(model: Model, panel: Panel) {
    super(model, panel);
    const line = make("div", "figure");
    line.append(this.value, this.unit, this.words, this.change);
    this.body.append(line);
  }
  private get indicator(): Indicator | undefined { return this.model.indicators.get(this.panel.indicators[0] ?? ""); }
  protected override heading(): string { return this.indicator ? named(this.indicator) : ""; }
  protected show(): void {
    const indicator = this.indicator;
    if (!indicator) return;
    const { main, ahead, corrected } = this.model.city(indicator.id);
    const text = figure(main?.value, indicator);
    mark(this.node, "fresh", !!this.value.textContent && this.value.textContent !== text);
    put(this.value, text);
    put(this.unit, main && main.value !== null ? unit(indicator) : "");
    mark(this.node, "none", !main || main.value === null);
    mark(this.node, "provisional", !!main?.provisional);
    const said = notes(main, ageOf(main, indicator, this.model.now()), corrected);
    if (ahead && ahead.value !== null) said.push(["ahead", `${t("provisional")} ${figure(ahead.value, indicator)}`]);
    put(this.words, "");
    for (const [name, word] of said) this.words.append(make("span", name, word));
    this.drawChange(indicator, main?.value ?? null, main ? Date.parse(main.window_end) : 0);
  }
  private drawChange(indicator: Indicator, value: number | null, end: number): void {
    const line = this.model.series.get(indicator.id) ?? [];
    const before = line.findLast((p) => p[0] <= end - HOUR_MS && p[0] > end - 1.5 * HOUR_MS);
    if (value === null || !before || before[1] === null) { put(this.change, ""); return; }
    const by = value - before[1], same = Math.abs(by) < 0.5 * 10 ** -indicator.decimals;
    put(this.change, same ? "＝" : `${by > 0 ? "▲" : "▼"} ${number(Math.abs(by), indicator.decimals)}`);
    const good = same || indicator.good === "none" ? "" : (by > 0) === (indicator.good === "up") ? " good" : " bad";
    this.change.className = `change${good}`;
    this.change.title = t("against");
  }
  table(): Twin {
    const indicator = this.indicator, { main } = this.model.city(indicator?.id ?? "");
    return {
      heads: [t("what"), t("value")],
      rows: indicator ? [[named(indicator), `${figure(main?.value, indicator)} ${unit(indicator)}`]] : [],
    };
  }
}
