// The texts of the screen in the language that is spoken; each language is a file of its own, loaded when it is wanted.
import type { zh } from "./zh";

export type Words = Record<keyof typeof zh, string>;
export const REASONS: Record<string, keyof Words> = {
  no_weight: "noWeight", too_few_samples: "tooFew", incomplete: "incomplete", input_ended: "inputEnded",
  not_collected: "notCollected", no_attribute: "noAttribute", no_capacity: "noCapacity", none_open: "noneOpen",
  coarse_time: "coarse", above_capacity: "above", not_publishable: "notPublishable",
};
export const LEVELS: Record<string, keyof Words> = {
  I: "levelI", II: "levelII", III: "levelIII", IV: "levelIV", no_data: "levelnone",
};
export type Language = "zh-CN" | "en";
let language: Language = "zh-CN";
let words: Words | null = null;
export async function speak(chosen: Language): Promise<void> {
  words = chosen === "zh-CN" ? (await import("./zh")).zh : (await import("./en")).en;
  language = chosen;
}
export function spoken(): Language { return language; }
export function t(key: keyof Words, ...args: (string | number)[]): string {
  return args.reduce<string>((text, arg, i) => text.replace(`{${i}}`, String(arg)), words?.[key] ?? "");
}
export function named(thing: { zh: string; en: string }): string { return language === "zh-CN" ? thing.zh : thing.en; }
export function otherwise(thing: { zh: string; en: string }): string { return language === "zh-CN" ? thing.en : thing.zh; }
