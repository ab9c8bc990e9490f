import { defineConfig } from "vite";

// What is built goes into the Python package; nothing in it names another host.
export default defineConfig({
  build: {
    outDir: "../web",
    emptyOutDir: true,
    target: "es2023",
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
});
