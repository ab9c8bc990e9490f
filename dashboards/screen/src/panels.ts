// Every kind of panel. What needs the chart library comes later (`drawn.ts`).
import type { Model } from "./model";
import { Alerts, ordered } from "./panels/alerts";
import { Kpi } from "./panels/kpi";
import { type Twin, View } from "./panels/panel";
import { Ranking } from "./panels/ranking";
import { Sources } from "./panels/sources";
import type { Panel } from "./types";

export { ordered };
export interface Around {
  model: Model; drawing: typeof import("./drawn") | null; open: (episode: string) => void; live: () => boolean;
}
/** Until the code that draws is there, the room of a chart. */
class Waiting extends View {
  protected show(): void {}
  table(): Twin { return { heads: [], rows: [] }; }
}
export function view(panel: Panel, { model, drawing, open, live }: Around): View {
  switch (panel.kind) {
    case "kpi": return new Kpi(model, panel);
    case "ranking": return new Ranking(model, panel);
    case "alerts": return new Alerts(model, panel, live, open);
    case "sources": return new Sources(model, panel);
    case "line": return drawing ? new drawing.Lines(model, panel) : new Waiting(model, panel);
    case "map": return drawing ? new drawing.Districts(model, panel) : new Waiting(model, panel);
    case "timeline": return drawing ? new drawing.Timeline(model, panel) : new Waiting(model, panel);
  }
}
