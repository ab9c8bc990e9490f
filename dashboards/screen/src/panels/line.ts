import type { Option } from "../charts";
import { ACCENT, BACK, DIM, LINE, rem, SECOND, TEXT } from "../colours";
import { figure, hhmm, shifted, unit } from "../format";
import type { Indicator } from "../types";
import { named, t } from "../words";
import { ChartView } from "./chart";
import type { Twin } from "./panel";

const TURN_MS = 20_000;
const HOURS_MS = 6 * 3_600_000;
function labelled(indicator: Indicator): string {
  const of = unit(indicator);
  return of ? `${named(indicator)} (${of})` : named(indicator);
}
/** The last hours of one or two indicators of the city; a gap is a gap. What is not final yet is a hollow point. */
export class Lines extends ChartView {
  private turn = Math.floor(performance.now() / TURN_MS);
  static paused = false;

  protected override shownIndicators(): readonly string[] {
    if (!this.panel.turns) return this.panel.indicators;
    const turn = Math.floor(performance.now() / TURN_MS);
    if (!Lines.paused && turn !== this.turn) { this.turn = turn; this.resized(); }
    const one = this.panel.indicators[this.turn % Math.max(1, this.panel.indicators.length)];
    return one === undefined ? [] : [one];
  }
  override next(): void { if (this.panel.turns) { this.turn++; this.resized(); } }
  private get mine(): Indicator[] {
    return this.shownIndicators().flatMap((id) => this.model.indicators.get(id) ?? []);
  }
  protected override heading(): string {
    return this.panel.turns && this.mine[0] ? `${named(this.panel)} · ${named(this.mine[0])}` : named(this.panel);
  }
  private points(indicator: Indicator): [number, number | null][] {
    const line = this.model.series.get(indicator.id) ?? [], last = line[line.length - 1]?.[0] ?? 0;
    const out: [number, number | null][] = [];
    let before = 0;
    for (const [end, value] of line) {
      if (end < last - HOURS_MS) continue;
      // A missing window is a gap, not a line across it.
      if (before && end - before > 1500 * indicator.window.step_s) out.push([shifted(before + 1), null]);
      out.push([shifted(end), value]);
      before = end;
    }
    return out;
  }
  protected override empty(): string {
    const none = this.mine.every((i) => !(this.model.series.get(i.id) ?? []).some((p) => p[1] !== null) && !this.model.city(i.id).ahead);
    return none ? t("noHistory") : "";
  }
  protected option(): Option | null {
    const mine = this.mine, size = rem(0.875), colours = [ACCENT, SECOND];
    // In whole minutes, so that the axis does not move with every second.
    const end = shifted(60_000 * Math.ceil((this.model.now() ?? 0) / 60_000));
    return {
      animation: false, useUTC: true,
      grid: { left: rem(3.2), right: mine.length > 1 ? rem(3.2) : rem(1), top: rem(2.4), bottom: rem(1.8) },
      legend: { top: 0, right: 0, itemWidth: rem(1.2), itemHeight: rem(0.6), textStyle: { color: DIM, fontSize: size }, data: mine.map(labelled) },
      xAxis: {
        type: "time", min: end - HOURS_MS, max: end, axisLine: { lineStyle: { color: LINE } }, splitLine: { show: false },
        axisLabel: { color: DIM, fontSize: size, hideOverlap: true, formatter: (ms: number) => new Date(ms).toISOString().slice(11, 16) },
      },
      yAxis: mine.map((_, n) => ({
        type: "value", scale: true, position: n ? "right" : "left", splitLine: { show: !n, lineStyle: { color: LINE, type: "dashed" } },
        axisLabel: { color: DIM, fontSize: size },
      })),
      series: mine.flatMap((indicator, n) => {
        const colour = colours[n] ?? ACCENT, { ahead, main } = this.model.city(indicator.id);
        const open = ahead ?? (main?.provisional ? main : undefined);
        const points = this.points(indicator);
        const limit = indicator.thresholds.values[mine.length > 1 ? -1 : 0];
        const values = points.flatMap((p) => p[1] ?? []);
        const marked = limit !== undefined && values.length && limit <= 1.5 * Math.max(...values) ? limit : undefined;
        return [
          {
            type: "line" as const, name: labelled(indicator), yAxisIndex: n, showSymbol: values.length < 3, symbolSize: rem(0.4), connectNulls: false,
            data: points, lineStyle: { color: colour, width: 2, type: n ? ("dashed" as const) : ("solid" as const) }, itemStyle: { color: colour },
            areaStyle: n ? undefined : { color: colour, opacity: 0.14 },
            ...(marked === undefined ? {} : {
              markLine: {
                symbol: "none", silent: true, data: [{ yAxis: marked }], lineStyle: { color: "#ff922b", type: "dashed" as const },
                label: { formatter: t("threshold"), color: TEXT, textBorderColor: BACK, textBorderWidth: 2, position: "insideEndTop" as const, fontSize: size },
              },
            }),
          },
          {
            type: "scatter" as const, yAxisIndex: n, symbol: "emptyCircle", symbolSize: rem(0.5), itemStyle: { color: colour }, silent: true,
            data: open && open.value !== null ? [[shifted(Date.parse(open.window_end)), open.value]] : [],
          },
        ];
      }),
    } as Option;
  }
  table(): Twin {
    const mine = this.mine, times = new Set<number>();
    const lines = mine.map((i) => new Map((this.model.series.get(i.id) ?? []).map((p) => [p[0], p[1]])));
    for (const line of lines) for (const end of line.keys()) times.add(end);
    const rows = [...times].sort((a, b) => b - a).slice(0, 72).map((end) => [hhmm(end), ...mine.map((i, n) => figure(lines[n]?.get(end), i))]);
    return { heads: [t("time"), ...mine.map(labelled)], rows };
  }
}
