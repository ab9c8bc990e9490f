import { SHAPE } from "../colours";
import { filled, make, mark, put } from "../dom";
import { duration, figure, hhmm, measure } from "../format";
import type { Model } from "../model";
import type { Episode, Panel } from "../types";
import { LEVELS, named, t } from "../words";
import { placeName, View, type Twin } from "./panel";

const FRESH_MS = 6_000;
const ORDER: Record<string, number> = { I: 0, II: 1, III: 2, IV: 3 };
export function ordered(model: Model): Episode[] {
  return [...model.alerts.values()].sort(
    (a, b) => (ORDER[a.level] ?? 9) - (ORDER[b.level] ?? 9) || Date.parse(b.started_at) - Date.parse(a.started_at),
  );
}
export function levelName(level: string): string { const key = LEVELS[level]; return key ? t(key) : level; }
export function why(model: Model, alert: Episode): string {
  const indicator = model.indicators.get(alert.indicator);
  if (!indicator) return alert.indicator;
  const limit = alert.threshold === null ? "" : ` · ${t("threshold")} ${figure(alert.threshold, indicator)}`;
  return `${named(indicator)} ${figure(alert.last_value, indicator)} ${measure(indicator)}`.trim() + limit;
}
/** What is open, the most severe first. */
export class Alerts extends View {
  private readonly list = make("ul", "alert-list");
  private hidden = 0;
  private readonly empty = make("p", "empty");
  private readonly seen = new Map<string, number>();
  private first = true;

  constructor(model: Model, panel: Panel, private readonly live: () => boolean, private readonly open: (id: string) => void) {
    super(model, panel);
    this.body.append(this.empty, this.list);
  }
  protected override heading(): string {
    const n = this.model.alerts.size;
    return n ? `${named(this.panel)} · ${n}` : named(this.panel);
  }
  protected override freshness(): [boolean, string] {
    return [!this.live(), !this.live() ? t("maybeMore") : this.hidden ? t("more", this.hidden) : ""];
  }
  protected show(): void {
    const all = ordered(this.model), now = this.model.now() ?? 0;
    this.empty.hidden = all.length > 0;
    put(this.empty, this.live() ? t("noAlerts") : t("maybeMore"));
    mark(this.empty, "unsure", !this.live());
    const room = Math.max(1, Math.floor(this.body.clientHeight / Math.max(1, (this.list.firstElementChild as HTMLElement | null)?.offsetHeight ?? 50)));
    const shown = all.slice(0, room);
    this.hidden = all.length - shown.length;
    for (const alert of all) if (!this.seen.has(alert.episode_id)) this.seen.set(alert.episode_id, this.first ? -Infinity : performance.now());
    for (const id of this.seen.keys()) if (!this.model.alerts.has(id)) this.seen.delete(id);
    this.first = false;
    filled(this.list, shown, () => {
      const item = make("li"), button = make("button", "alert");
      button.type = "button";
      button.append(make("span", "shape"), make("span", "what"), make("span", "since"), make("span", "why"));
      button.addEventListener("click", () => this.open(item.dataset["id"] ?? ""));
      item.append(button);
      return item;
    }, (item, alert) => {
      item.dataset["id"] = alert.episode_id;
      const [shape, what, since, because] = item.firstElementChild?.children as unknown as [HTMLElement, HTMLElement, HTMLElement, HTMLElement];
      put(shape, SHAPE[alert.level] ?? "?");
      shape.className = `shape level-${alert.level}`;
      put(what, `${levelName(alert.level)} · ${placeName(this.model, alert.place_kind, alert.place)}`);
      what.className = `what level-${alert.level}`;
      put(since, `${hhmm(Date.parse(alert.started_at))} · ${duration(now - Date.parse(alert.started_at))}`);
      put(because, why(this.model, alert));
      because.title = because.textContent ?? "";
      mark(item, "fresh", performance.now() - (this.seen.get(alert.episode_id) ?? 0) < FRESH_MS);
    });
  }
  table(): Twin {
    const rows = ordered(this.model).slice(0, 200).map((a) => [levelName(a.level), placeName(this.model, a.place_kind, a.place), hhmm(Date.parse(a.started_at)), why(this.model, a)]);
    return { heads: [t("level"), t("place"), t("began"), t("what")], rows };
  }
}
