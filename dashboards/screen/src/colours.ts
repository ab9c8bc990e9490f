// Colours of the screen; contrasts and distances were measured on the panel's background.
export const TEXT = "#e8eef7", DIM = "#a9b8cf", LINE = "#2a3d5c", BACK = "#0a1220", ACCENT = "#4cc2ff", SECOND = "#c7a6ff";
export const LEVEL: Record<string, string> = { I: "#ff6b6b", II: "#ff922b", III: "#ffd43b", IV: "#6ea8fe", no_data: "#a9b8cf" };
export const SHAPE: Record<string, string> = { I: "■", II: "▲", III: "◆", IV: "●", no_data: "○" };
export const SYMBOL: Record<string, string> = { I: "rect", II: "triangle", III: "diamond", IV: "circle", no_data: "emptyCircle" };
/** Worst last. */
export const TRAFFIC = ["#2e9e6b", "#e6c229", "#f2803a", "#d7263d", "#8e2fbf"];
/** Lightness rising. */
export const OTHERS = ["#22406e", "#2f6f9f", "#4aa3b8", "#a6d5a8", "#f5efb0"];
export const NONE = "#1b2638";
/** Text of charts in px, as rem is. */
export function rem(n: number): number { return n * parseFloat(getComputedStyle(document.documentElement).fontSize); }
