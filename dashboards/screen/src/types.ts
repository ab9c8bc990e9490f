// What the server sends (dashboards/board.py, catalogue.py, panels.py, alerts.py). Times are ISO 8601 in UTC.
export type Level = "I" | "II" | "III" | "IV" | "no_data";
export interface Named { id: string; zh: string; en: string }
export interface Indicator extends Named {
  method_id: string; unit: string; domain: string; stream: string | null; levels: string[];
  window: { kind: "slide" | "day"; size_s: number; step_s: number };
  thresholds: { values: number[]; grade: string; source: string };
  good: "up" | "down" | "none"; target: number | null; decimals: number; stale_after_s: number; no_data_after_s: number;
}
export interface Reading {
  indicator: string; place_kind: string; place: string; window_start: string; window_end: string; value: number | null;
  unit: string; state: "ok" | "degraded" | "no_data"; completeness: number | null; samples: number | null;
  num: number | null; den: number | null; detail: Record<string, unknown>; as_of: string | null; method_id: string;
  revision: number; provisional: boolean; no_data_since: string | null;
}
export interface Episode {
  episode_id: string; rule: string; rule_version: number; indicator: string; place_kind: string; place: string;
  /** That a site lies in. */
  district: string | null;
  level: Level; state: string; started_at: string; ended_at: string | null; last_value: number | null;
  threshold: number | null; detail: Record<string, unknown>; revision: number | null;
}
export interface Transition {
  episode_id: string; seq: number; at: string; from_state: string; to_state: string; level: Level;
  detail: Record<string, unknown>;
}
export interface StreamHealth {
  watermark: string | null; last_event_at: string | null; accepted?: number; late?: number; rejected?: number;
  quarantined?: number; received?: number;
  /** What is wrong with its jobs. */
  notes?: string[];
}
export type Kind = "kpi" | "line" | "map" | "ranking" | "alerts" | "timeline" | "sources";
export interface Panel extends Named { kind: Kind; area: [number, number, number, number]; indicators: string[]; turns: boolean }
export interface Screen extends Named { panels: Panel[] }
export interface Catalogue {
  city: Named & { zone: string; outlined: boolean; districts: Named[] };
  domains: Named[]; indicators: Indicator[]; screens: Screen[];
}
/** End of the window (ms), value, revision. */
export type Point = [number, number | null, number];
/** Id, start, level, state. */
export type Begun = [string, string, Level, string];
export interface Frame { v: number; as_of: string; sent: number; speed: number }
export interface Snapshot extends Frame {
  id: string; build: string; catalogue: Catalogue; readings: Reading[]; alerts: Episode[]; begun: Begun[];
  streams: Record<string, StreamHealth>; series: Record<string, Point[]>;
}
export interface Delta extends Frame {
  readings: Reading[]; gone: [string, string, string][]; streams: Record<string, StreamHealth>; series: Record<string, Point[]>;
}
export interface AlertEvent extends Frame { episodes: Episode[]; transitions: Transition[] }
export interface Heartbeat extends Frame {
  build: string; ready: boolean; stalled: { part: string; for_s: number; text: string } | null;
}
