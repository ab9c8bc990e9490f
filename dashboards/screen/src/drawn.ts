// What needs the chart library, in one file with it.
export { Evidence } from "./evidence";
export { Lines } from "./panels/line";
export { Districts } from "./panels/map";
export { Timeline } from "./panels/timeline";
