import { chartIn, type Chart, type Option } from "../charts";
import { make, put } from "../dom";
import type { Model } from "../model";
import type { Panel } from "../types";
import { View } from "./panel";

export const EVERY_MS = 5_000;

/** A panel that ECharts draws: at once when what it shows changes, else every five seconds. */
export abstract class ChartView extends View {
  protected readonly room = make("div", "chart-room");
  protected chart: Chart | null = null;
  private readonly nothing = make("p", "nothing");
  private drawn = -Infinity;
  private said = "";
  private closed = false;

  constructor(model: Model, panel: Panel) {
    super(model, panel);
    this.room.setAttribute("role", "img");
    this.nothing.hidden = true;
    this.body.append(this.room, this.nothing);
    new ResizeObserver(() => this.chart?.resize()).observe(this.room);
  }
  /** The chart, once there is all that it is drawn of. */
  protected async ready(): Promise<void> {
    if (!this.closed && !this.chart) this.chart = chartIn(this.room);
  }
  protected show(): void {
    this.room.setAttribute("aria-label", this.heading());
    if (performance.now() - this.drawn < EVERY_MS) return;
    this.drawn = performance.now();
    const nothing = this.empty();
    put(this.nothing, nothing);
    this.nothing.hidden = !nothing;
    void this.ready().then(() => {
      const option = this.option(), now = JSON.stringify(option);
      if (!option || now === this.said) return;
      this.said = now;
      this.chart?.setOption(option, { notMerge: true });
    });
  }
  /** What is said where there is nothing to draw. */
  protected empty(): string { return ""; }
  protected abstract option(): Option | null;
  override alerted(): void { this.drawn = -Infinity; }
  override resized(): void { this.drawn = -Infinity; this.said = ""; this.chart?.resize(); }
  override close(): void { this.closed = true; this.chart?.dispose(); this.chart = null; }
}
