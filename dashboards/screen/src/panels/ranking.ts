import { filled, make, mark, put } from "../dom";
import { figure, unit } from "../format";
import type { Indicator } from "../types";
import { named, t } from "../words";
import { districtRows, View, type Twin } from "./panel";

const SHOWN = 10;
/** Districts, the worst first (the largest, where neither is worse). */
export class Ranking extends View {
  private get indicator(): Indicator | undefined { return this.model.indicators.get(this.panel.indicators[0] ?? ""); }
  protected override heading(): string {
    return this.indicator ? `${named(this.panel)} · ${named(this.indicator)}` : named(this.panel);
  }
  private ordered(): ReturnType<typeof districtRows> {
    const sign = this.indicator?.good === "up" ? 1 : -1;
    return districtRows(this.model, this.indicator?.id ?? "").sort(
      (a, b) => Number(a.value === null) - Number(b.value === null) || sign * ((a.value ?? 0) - (b.value ?? 0)) || a.id.localeCompare(b.id),
    );
  }
  protected show(): void {
    const indicator = this.indicator;
    if (!indicator) return;
    const rows = this.ordered().slice(0, SHOWN), most = Math.max(1e-9, ...rows.map((r) => Math.abs(r.value ?? 0)));
    filled(this.body, rows, () => {
      const node = make("div", "rank"), bar = make("span", "bar");
      bar.append(make("i"));
      node.append(make("span", "nth"), make("span", "name"), bar, make("span", "value"));
      return node;
    }, (node, row) => {
      const [nth, name, bar, value] = node.children as unknown as [HTMLElement, HTMLElement, HTMLElement, HTMLElement];
      put(nth, String(rows.indexOf(row) + 1));
      put(name, row.name);
      name.title = row.name;
      (bar.firstElementChild as HTMLElement).style.width = `${(100 * Math.abs(row.value ?? 0)) / most}%`;
      put(value, figure(row.value, indicator));
      mark(node, "old", row.old);
      mark(node, "none", row.value === null);
    });
  }
  table(): Twin {
    const indicator = this.indicator;
    if (!indicator) return { heads: [], rows: [] };
    const rows = this.ordered().map((r, n) => [String(n + 1), r.name, figure(r.value, indicator)]);
    return { heads: ["#", t("district"), `${t("value")} ${unit(indicator)}`.trim()], rows };
  }
}
