// The one stream of the page: opened again when nothing is heard, with what was heard last, and the page anew as a last resort.
import { LOST_AFTER_MS } from "./fresh";
import type { Model } from "./model";
import type { AlertEvent, Delta, Heartbeat, Snapshot } from "./types";

const GIVE_UP_MS = 300_000;
/** A server that is back is found in less than five seconds. */
const LONGEST_MS = 3_000;
const QUIET_MS = 3_000;

export class Link {
  private source: EventSource | null = null;
  private lastId = "";
  private next = 0;
  private wait = 1000;
  private newer = 0;
  private looks = 0;
  readonly started = performance.now();

  constructor(private readonly model: Model, private readonly changed: (what: "snapshot" | "delta" | "alert" | "hb") => void) {}

  get closed(): boolean { return this.source?.readyState === EventSource.CLOSED; }
  get waited(): number { return performance.now() - this.started; }

  open(): void {
    this.source?.close();
    const after = this.lastId ? `?last_event_id=${encodeURIComponent(this.lastId)}` : "";
    const source = (this.source = new EventSource(`/api/v1/stream${after}`));
    const on = <T extends Snapshot | Delta | AlertEvent | Heartbeat>(name: "snapshot" | "delta" | "alert" | "hb", take: (payload: T) => void) =>
      source.addEventListener(name, (event) => {
        const payload = JSON.parse((event as MessageEvent<string>).data) as T;
        this.lastId = (event as MessageEvent<string>).lastEventId;
        this.wait = 1000;
        this.model.hear(payload, name !== "snapshot");
        take(payload);
        this.changed(name);
      });
    on<Snapshot>("snapshot", (p) => { this.built(p.build); this.model.snapshot(p); });
    on<Delta>("delta", (p) => this.model.delta(p));
    on<AlertEvent>("alert", (p) => this.model.alert(p));
    on<Heartbeat>("hb", (p) => { this.built(p.build); this.model.heartbeat(p); });
  }
  /** Other files are served: the page is loaded anew when nobody is at it. */
  private built(build: string): void {
    if (this.model.build === null) this.model.build = build;
    else if (this.model.build !== build && !this.newer) this.newer = performance.now();
  }
  /** Once a second. */
  watch(busy: boolean): void {
    const silent = performance.now() - (this.model.heard ?? this.started);
    if (this.newer && !busy && performance.now() - this.newer > QUIET_MS) location.reload();
    if (silent > GIVE_UP_MS && performance.now() > this.looks) {
      this.looks = performance.now() + 30_000;
      // Only when the server is there: a browser's error page would never come back.
      fetch("/healthz").then((answer) => { if (answer.ok) location.reload(); }, () => undefined);
    }
    if ((this.closed || silent > LOST_AFTER_MS) && performance.now() > this.next) {
      this.next = performance.now() + this.wait + 1000 * Math.random();
      this.wait = Math.min(LONGEST_MS, this.wait * 2);
      this.open();
    }
  }
}
