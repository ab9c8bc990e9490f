import type { Option } from "../charts";
import { DIM, LEVEL, LINE, rem } from "../colours";
import { hhmm } from "../format";
import { t } from "../words";
import { levelName } from "./alerts";
import { ChartView } from "./chart";
import type { Twin } from "./panel";

const HOUR_MS = 3_600_000, HOURS = 24, SHOWN = ["I", "II", "III", "IV", "no_data"];
/** How many alerts began in each of the last 24 hours, by level. */
export class Timeline extends ChartView {
  protected override freshness(): [boolean, string] { return [false, ""]; }
  private counted(): { hours: number[]; of: Map<string, number[]> } {
    const now = this.model.now() ?? 0, first = (Math.floor(now / HOUR_MS) - HOURS + 1) * HOUR_MS;
    const of = new Map(SHOWN.map((level) => [level, new Array<number>(HOURS).fill(0)]));
    for (const [, started, level] of this.model.begun.values()) {
      const hour = Math.floor((Date.parse(started) - first) / HOUR_MS), line = of.get(level);
      if (line && hour >= 0 && hour < HOURS) line[hour] = (line[hour] ?? 0) + 1;
    }
    return { hours: Array.from({ length: HOURS }, (_, n) => first + n * HOUR_MS), of };
  }
  protected option(): Option | null {
    const { hours, of } = this.counted(), size = rem(0.875);
    return {
      animation: false,
      grid: { left: rem(2.4), right: rem(0.6), top: rem(0.4), bottom: rem(1.6) },
      xAxis: {
        type: "category", data: hours.map((ms) => hhmm(ms)), axisLine: { lineStyle: { color: LINE } },
        axisLabel: { color: DIM, fontSize: size, hideOverlap: true }, axisTick: { show: false },
      },
      yAxis: { type: "value", minInterval: 1, splitNumber: 2, splitLine: { lineStyle: { color: LINE, type: "dashed" } }, axisLabel: { color: DIM, fontSize: size } },
      series: SHOWN.map((level) => ({ type: "bar", stack: "all", name: levelName(level), data: of.get(level), itemStyle: { color: LEVEL[level] } })),
    } as Option;
  }
  table(): Twin {
    const { hours, of } = this.counted();
    const rows = hours.map((ms, n) => [hhmm(ms), ...SHOWN.map((level) => String(of.get(level)?.[n] ?? 0))]).reverse();
    return { heads: [t("time"), ...SHOWN.map(levelName)], rows };
  }
}
