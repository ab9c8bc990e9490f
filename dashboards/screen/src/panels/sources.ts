import { filled, make, mark, put } from "../dom";
import { ago, number, percent } from "../format";
import { t } from "../words";
import { View, type Twin } from "./panel";

const OLD_MS = 300_000;
/** Each stream: how long nothing came, what was late, what was refused. */
export class Sources extends View {
  protected override freshness(): [boolean, string] { return [false, ""]; }
  /** After how long without an event a stream is marked: by the indicator that needs it soonest. */
  private patience(stream: string): number {
    const mine = [...this.model.indicators.values()].filter((i) => i.stream === stream && i.levels.includes("city"));
    return mine.length ? 1000 * Math.min(...mine.map((i) => i.stale_after_s)) : OLD_MS;
  }
  private lines(): { name: string; text: string; age: string; late: string; refused: string; old: boolean; notes: string }[] {
    const now = this.model.now() ?? 0;
    return Object.entries(this.model.streams).sort(([a], [b]) => a.localeCompare(b)).map(([name, s]) => {
      const last = s.last_event_at ? Date.parse(s.last_event_at) : null;
      return {
        name, text: s.notes?.length ? `${name} ⚠` : name, notes: (s.notes ?? []).join("\n"), age: last === null ? "—" : ago(now - last), old: last === null || now - last > this.patience(name),
        late: s.accepted ? percent((s.late ?? 0) / s.accepted) : "—", refused: number((s.rejected ?? 0) + (s.quarantined ?? 0), 0),
      };
    });
  }
  protected show(): void {
    filled(this.body, this.lines(), () => {
      const node = make("div", "source");
      node.append(make("span", "dot"), make("span", "name"), make("span", "age"), make("span", "refused"));
      return node;
    }, (node, line) => {
      const [dot, name, age, refused] = node.children as unknown as [Element, Element, Element, HTMLElement];
      put(dot, line.old ? "▨" : "✓");
      put(name, line.text);
      node.title = line.notes;
      put(age, line.age);
      put(refused, line.refused === "0" ? "" : `✕ ${line.refused}`);
      refused.title = t("refused");
      mark(node, "old", line.old);
    });
  }
  table(): Twin {
    return {
      heads: [t("stream"), t("last"), t("lateShare"), t("refused")],
      rows: this.lines().map((l) => [l.text, l.age, l.late, l.refused]),
    };
  }
}
