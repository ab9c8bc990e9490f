// What the page knows: the newest state of the server, and the run's clock, which may be simulated and faster than ours.
import type { AlertEvent, Begun, Catalogue, Delta, Episode, Frame, Heartbeat, Indicator, Named, Point, Reading, Snapshot, StreamHealth } from "./types";

export const DAY_MS = 86_400_000;
export function keyOf(indicator: string, kind: string, place: string): string { return `${indicator}\n${kind}\n${place}`; }

export class Model {
  catalogue: Catalogue | null = null;
  indicators = new Map<string, Indicator>();
  districts = new Map<string, Named>();
  final = new Map<string, Reading>();
  provisional = new Map<string, Reading>();
  /** Cells whose shown window was corrected after it had been shown. */
  corrected = new Map<string, string>();
  alerts = new Map<string, Episode>();
  begun = new Map<string, Begun>();
  streams: Record<string, StreamHealth> = {};
  series = new Map<string, Point[]>();
  build: string | null = null;
  ready = true;
  stalled: (NonNullable<Heartbeat["stalled"]> & { at: number }) | null = null;
  /** When anything was heard last, by the page's own clock. */
  heard: number | null = null;
  speed = 1;
  private skew: { sent: number; at: number } | null = null;

  hear(frame: Frame, sets: boolean): void {
    this.heard = performance.now();
    this.speed = frame.speed || 1;
    // A snapshot may have been encoded a while ago: it sets the clock only when nothing else has.
    if (sets || !this.skew) this.skew = { sent: frame.sent, at: this.heard };
  }
  now(): number | null {
    return this.skew && this.skew.sent + (performance.now() - this.skew.at) * this.speed;
  }
  snapshot(p: Snapshot): void {
    this.catalogue = p.catalogue;
    this.indicators = new Map(p.catalogue.indicators.map((i) => [i.id, i]));
    this.districts = new Map(p.catalogue.city.districts.map((d) => [d.id, d]));
    this.final.clear();
    this.provisional.clear();
    this.take(p.readings);
    this.alerts = new Map(p.alerts.map((a) => [a.episode_id, a]));
    this.begun = new Map(p.begun.map((b) => [b[0], b]));
    this.streams = p.streams;
    this.series = new Map(Object.entries(p.series));
  }
  delta(p: Delta): void {
    this.take(p.readings);
    for (const [indicator, kind, place] of p.gone) this.provisional.delete(keyOf(indicator, kind, place));
    this.streams = p.streams;
    for (const [name, points] of Object.entries(p.series)) for (const point of points) this.point(name, point);
  }
  alert(p: AlertEvent): void {
    for (const e of p.episodes) {
      if (e.state === "firing") this.alerts.set(e.episode_id, e);
      else this.alerts.delete(e.episode_id);
      if (e.state === "retracted") this.begun.delete(e.episode_id);
      else this.begun.set(e.episode_id, [e.episode_id, e.started_at, e.level, e.state]);
    }
    const oldest = (this.now() ?? 0) - DAY_MS;
    for (const [id, [, started]] of this.begun) if (Date.parse(started) < oldest) this.begun.delete(id);
  }
  heartbeat(p: Heartbeat): void {
    this.ready = p.ready;
    this.stalled = p.stalled && { ...p.stalled, at: performance.now() };
  }
  private take(readings: readonly Reading[]): void {
    for (const r of readings) {
      const key = keyOf(r.indicator, r.place_kind, r.place);
      if (!r.provisional) {
        const before = this.final.get(key);
        if (before && before.window_end === r.window_end && before.value !== r.value) this.corrected.set(key, r.window_end);
        else if (this.corrected.get(key) !== r.window_end) this.corrected.delete(key);
      }
      (r.provisional ? this.provisional : this.final).set(key, r);
    }
  }
  private point(name: string, point: Point): void {
    let line = this.series.get(name);
    if (!line) this.series.set(name, (line = []));
    let at = line.length;
    while (at > 0 && (line[at - 1] as Point)[0] >= point[0]) at--;
    line.splice(at, line[at]?.[0] === point[0] ? 1 : 0, point);
    const first = (line[line.length - 1] as Point)[0] - DAY_MS;
    while (line.length && (line[0] as Point)[0] < first) line.shift();
  }
  /** What is shown of a cell: the final reading, or the provisional one while there is no final one. */
  shown(indicator: string, kind: string, place: string): { main: Reading | undefined; ahead: Reading | undefined; corrected: boolean } {
    const key = keyOf(indicator, kind, place), final = this.final.get(key), provisional = this.provisional.get(key);
    return { main: final ?? provisional, ahead: final ? provisional : undefined, corrected: !!final && this.corrected.get(key) === final.window_end };
  }
  /** The city's own place; a stream may call it otherwise. */
  cityPlace(indicator: string): string {
    const own = this.catalogue?.city.id ?? "";
    if (this.final.has(keyOf(indicator, "city", own))) return own;
    for (const map of [this.final, this.provisional]) {
      for (const r of map.values()) if (r.place_kind === "city" && r.indicator === indicator) return r.place;
    }
    return own;
  }
  city(indicator: string): ReturnType<Model["shown"]> { return this.shown(indicator, "city", this.cityPlace(indicator)); }
}
