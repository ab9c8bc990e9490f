// The evidence of one alert: its rule, the readings around it with the threshold, the way it went. One key or one click away.
import { chartIn, type Option } from "./charts";
import { ACCENT, BACK, DIM, LEVEL, LINE, rem, SHAPE, TEXT } from "./colours";
import { make, table } from "./dom";
import { figure, hhmm, measure, number, percent, shifted } from "./format";
import type { Model } from "./model";
import { levelName } from "./panels/alerts";
import { placeName } from "./panels/panel";
import type { Episode, Reading, Transition } from "./types";
import { named, t } from "./words";

interface Told { episode: Episode; transitions: Transition[] }
interface Past { history: Reading[] }
const HOURS = 6;

export class Evidence {
  readonly node = make("dialog", "evidence");
  private asked = "";

  constructor(private readonly model: Model) {
    document.body.append(this.node);
    this.node.addEventListener("close", () => { this.asked = ""; });
  }
  get shown(): boolean { return this.node.open; }
  close(): void { this.node.close(); }
  async open(id: string): Promise<void> {
    this.asked = id;
    const close = make("button", "close", t("close"));
    close.type = "button";
    close.addEventListener("click", () => this.close());
    this.node.replaceChildren(make("p", "loading", t("loading")), close);
    if (!this.node.open) this.node.showModal();
    try {
      const told = await asked<Told>(`/api/v1/alerts/${id.split("/").map(encodeURIComponent).join("/")}`);
      const e = told.episode, where = new URLSearchParams({ place_kind: e.place_kind, place: e.place, hours: String(HOURS), limit: "500" });
      const past = await asked<Past>(`/api/v1/indicators/${encodeURIComponent(e.indicator)}?${where}`);
      if (this.asked === id) this.fill(told, past, close);
    } catch (error) {
      if (this.asked === id) this.node.replaceChildren(make("p", "bad", t("unreadable", String(error))), close);
    }
  }
  private fill({ episode: e, transitions }: Told, past: Past, close: HTMLElement): void {
    const indicator = this.model.indicators.get(e.indicator), title = make("h2");
    title.append(
      make("span", `shape level-${e.level}`, SHAPE[e.level] ?? "?"),
      make("span", "", ` ${levelName(e.level)} · ${placeName(this.model, e.place_kind, e.place)} · ${indicator ? named(indicator) : e.indicator}`),
    );
    const facts = make("dl"), fact = (name: string, text: string) => facts.append(make("dt", "", name), make("dd", "", text));
    const last = past.history[past.history.length - 1];
    fact(t("rule"), `${e.rule} v${e.rule_version}${e.threshold === null ? "" : ` · ${t("threshold")} ${indicator ? figure(e.threshold, indicator) : e.threshold}`}`);
    fact(t("value"), indicator ? `${figure(e.last_value, indicator)} ${measure(indicator)}`.trim() : String(e.last_value));
    fact(t("began"), `${hhmm(Date.parse(e.started_at))} – ${e.ended_at ? hhmm(Date.parse(e.ended_at)) : t("open")}`);
    if (last) {
      const parts = [t("samples", number(last.samples ?? 0, 0))];
      if (last.completeness !== null) parts.push(t("complete", percent(last.completeness)));
      fact(t("inputs"), parts.join(" · "));
    }
    if (indicator) fact(t("method"), `${indicator.method_id} · ${indicator.thresholds.source}`);
    const chart = make("div", "evidence-chart"), ways = make("div", "evidence-ways");
    ways.append(make("h3", "", t("history")), table(
      [t("time"), t("state"), t("level"), t("value")],
      transitions.map((x) => [hhmm(Date.parse(x.at)), x.to_state, levelName(x.level), Object.entries(x.detail).map(([k, v]) => `${k} ${JSON.stringify(v)}`).join(", ")]),
    ));
    this.node.replaceChildren(title, facts, past.history.length ? chart : make("p", "", t("noHistory")), ways, close);
    close.focus();
    if (!past.history.length || !indicator) return;
    const size = rem(0.875), end = e.ended_at ? Date.parse(e.ended_at) : (this.model.now() ?? Date.now());
    chartIn(chart).setOption({
      animation: false, useUTC: true, grid: { left: rem(3.5), right: rem(2), top: rem(1.8), bottom: rem(1.8) },
      xAxis: { type: "time", axisLine: { lineStyle: { color: LINE } }, axisLabel: { color: DIM, fontSize: size, formatter: (ms: number) => new Date(ms).toISOString().slice(11, 16) } },
      yAxis: { type: "value", scale: true, splitLine: { lineStyle: { color: LINE, type: "dashed" } }, axisLabel: { color: DIM, fontSize: size } },
      series: [
        {
          type: "line", showSymbol: past.history.length < 60, symbolSize: 5, lineStyle: { color: ACCENT }, itemStyle: { color: ACCENT },
          data: past.history.map((r) => [shifted(Date.parse(r.window_end)), r.value]),
          markLine: {
            symbol: "none", silent: true, label: { color: TEXT, textBorderColor: BACK, textBorderWidth: 2, fontSize: size },
            data: [
              ...(e.threshold === null ? [] : [{ yAxis: e.threshold, lineStyle: { color: LEVEL[e.level], type: "dashed" }, label: { formatter: t("threshold"), position: "insideEndTop" } }]),
              { xAxis: shifted(Date.parse(e.started_at)), lineStyle: { color: LEVEL[e.level] }, label: { formatter: t("began") } },
              ...(e.ended_at ? [{ xAxis: shifted(end), lineStyle: { color: DIM }, label: { formatter: t("ended") } }] : []),
            ],
          },
        },
      ],
    } as Option);
  }
}
async function asked<T>(path: string): Promise<T> {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${answer.status} ${((await answer.json().catch(() => ({}))) as { detail?: string }).detail ?? ""}`.trim());
  return (await answer.json()) as T;
}
