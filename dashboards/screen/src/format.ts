// Numbers and times as people read them: by the language, and always in the zone of the city.
import { spoken, t } from "./words";
import type { Indicator } from "./types";

let zone = "UTC";
export function inCity(name: string): void { zone = name; formats.clear(); }
const formats = new Map<string, Intl.DateTimeFormat | Intl.NumberFormat>();
function kept<T extends Intl.DateTimeFormat | Intl.NumberFormat>(name: string, make: () => T): T {
  let found = formats.get(name) as T | undefined;
  if (!found) formats.set(name, (found = make()));
  return found;
}
export function number(value: number, decimals: number): string {
  const options = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return kept(`n${spoken()}${decimals}`, () => new Intl.NumberFormat(spoken(), options)).format(value);
}
export function percent(share: number): string {
  const options = { style: "percent", maximumFractionDigits: 1 } as const;
  return kept(`p${spoken()}`, () => new Intl.NumberFormat(spoken(), options)).format(share);
}
const UNITS_ZH: Record<string, string> = { "veh/h": "辆/小时", min: "分钟", s: "秒", "cm/min": "cm/分钟" };
const SCALE = /^(code )?(\d+)-(\d+)$/;
/** What it is measured in; for an index or a share its scale. */
export function unit(indicator: Indicator): string {
  return SCALE.test(indicator.unit) ? indicator.unit.replace(SCALE, "$2–$3") : measure(indicator);
}
/** What it is measured in; an index has none. */
export function measure(indicator: Indicator): string {
  if (/^(index|1|-)$/.test(indicator.unit) || SCALE.test(indicator.unit)) return "";
  return (spoken() === "zh-CN" && UNITS_ZH[indicator.unit]) || indicator.unit;
}
export function figure(value: number | null | undefined, indicator: Indicator): string {
  return value === null || value === undefined ? "—" : number(value, indicator.decimals);
}
export function duration(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 120) return t("s", s);
  if (s < 7200) return t("m", Math.floor(s / 60));
  if (s < 172_800) return t("h", Math.floor(s / 3600));
  return t("d", Math.floor(s / 86_400));
}
export function ago(ms: number): string { return ms < 5000 ? t("now") : t("ago", duration(ms)); }
function inZone(ms: number, name: string, locale: string, options: Intl.DateTimeFormatOptions): string {
  const make = () => new Intl.DateTimeFormat(locale, { timeZone: zone, hourCycle: "h23", ...options });
  return kept(`d${locale}${name}`, make).format(ms);
}
export function hhmm(ms: number): string {
  return inZone(ms, "hhmm", "sv-SE", { hour: "2-digit", minute: "2-digit" });
}
export function clockText(ms: number): string {
  const date = inZone(ms, "date", "sv-SE", { year: "numeric", month: "2-digit", day: "2-digit" });
  const weekday = inZone(ms, "weekday", spoken(), { weekday: "short" });
  const name = inZone(ms, "zone", "en", { timeZoneName: "shortOffset" }).split(" ").pop() ?? "";
  return `${date} ${weekday} ${inZone(ms, "time", "sv-SE", { hour: "2-digit", minute: "2-digit", second: "2-digit" })} ${name}`;
}
/** An instant as a chart draws it in UTC, so that its axis reads the city's time. */
export function shifted(ms: number): number {
  const parts = inZone(ms, "shift", "sv-SE", {
    year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  });
  return Date.parse(`${parts.replace(" ", "T")}Z`) + (ms % 1000);
}
