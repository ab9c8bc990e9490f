// ECharts, as much of it as is drawn; loaded after the first numbers are on the glass.
import { BarChart, LineChart, MapChart, ScatterChart } from "echarts/charts";
import { GeoComponent, GridComponent, LegendComponent, MarkLineComponent, VisualMapComponent } from "echarts/components";
import * as core from "echarts/core";
import { LabelLayout } from "echarts/features";
import { CanvasRenderer } from "echarts/renderers";

core.use([BarChart, LineChart, MapChart, ScatterChart, GeoComponent, GridComponent, LegendComponent, MarkLineComponent,
  VisualMapComponent, LabelLayout, CanvasRenderer]);
export type Chart = core.EChartsType;
export type Option = Parameters<Chart["setOption"]>[0];
export type MapSource = Parameters<typeof core.registerMap>[1];
export function chartIn(node: HTMLElement): Chart {
  return core.init(node, undefined, { renderer: "canvas", devicePixelRatio: window.devicePixelRatio });
}
export const registerMap: (name: string, outlines: MapSource) => void = core.registerMap;
