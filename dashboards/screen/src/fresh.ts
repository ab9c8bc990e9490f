// The contract of freshness: an old number is never shown as a live one. Pure functions of what is known and of the time.
import { ago, duration, hhmm, percent } from "./format";
import type { Indicator, Reading } from "./types";
import { REASONS, t } from "./words";
import type { Model } from "./model";

export const LOST_AFTER_MS = 15_000;

export interface Age { old: boolean; silent: boolean; text: string }
/** By the run's clock, from the end of the window: a reading is no fresher than the time that it is about. */
export function ageOf(reading: Reading | undefined, indicator: Indicator, now: number | null): Age {
  if (!reading || now === null) return { old: false, silent: false, text: "" };
  const since = now - Date.parse(reading.window_end);
  return {
    old: since > indicator.stale_after_s * 1000,
    silent: since > indicator.no_data_after_s * 1000,
    text: ago(now - Date.parse(reading.as_of ?? reading.window_end)),
  };
}
/** What is to be said of a reading beside its number. */
export function notes(reading: Reading | undefined, age: Age, corrected = false): [string, string][] {
  if (!reading) return [["word", t("noReading")]];
  const out: [string, string][] = [];
  const end = Date.parse(reading.window_end);
  if (reading.state === "no_data") {
    const since = reading.no_data_since ? Date.parse(reading.no_data_since) : end;
    out.push(["word none", `${t("noData")} · ${t("since", hhmm(since))}`]);
  }
  if (age.silent) out.push(["word old", `${t("silent")} · ${t("since", hhmm(end))}`]);
  const reason = typeof reading.detail["reason"] === "string" ? reading.detail["reason"] : "";
  if (reading.provisional) out.push(["word provisional", t("provisional")]);
  else if (reading.state === "degraded") out.push(["word degraded", t("degraded")]);
  if (corrected) out.push(["word corrected", t("corrected")]);
  const known = REASONS[reason];
  if (known) out.push(["reason", t(known)]);
  if (reading.completeness !== null && reading.completeness < 0.95 && reading.state !== "no_data") {
    out.push(["reason", t("complete", percent(reading.completeness))]);
  }
  return out;
}
export type Whole = "connecting" | "pending" | "live" | "stale" | "disconnected" | "stalled";
/** The state of the whole screen, and what its header says. */
export function whole(model: Model, closed: boolean, waitedMs: number): [Whole, string] {
  const now = model.now();
  if (model.heard === null || now === null) return ["connecting", waitedMs > 10_000 ? t("unanswered") : ""];
  const silent = performance.now() - model.heard;
  if (silent > LOST_AFTER_MS || closed) return ["disconnected", t("lost", duration(silent))];
  if (model.stalled) {
    const since = duration(model.stalled.for_s * 1000 + performance.now() - model.stalled.at);
    return ["stalled", t(model.stalled.part === "store" ? "stalledStore" : "stalledLoop", since)];
  }
  let newest = -Infinity, fresh = false;
  for (const map of [model.final, model.provisional]) {
    for (const reading of map.values()) {
      const indicator = model.indicators.get(reading.indicator);
      if (!indicator) continue;
      newest = Math.max(newest, Date.parse(reading.window_end));
      fresh ||= !ageOf(reading, indicator, now).old;
    }
  }
  if (newest === -Infinity) return ["pending", t("waiting")];
  if (!fresh) return ["stale", t("slow", duration(now - newest))];
  return ["live", model.ready ? "" : t("notReady")];
}
