// Graphs in ONNX Runtime, in WebAssembly. Used by the page of a bundle and by quantsam's engine `web` alike.

import * as ort from "./ort/ort.wasm.min.mjs";

// Threads need pages that are isolated from others: the browser says so.
export const mostThreads = () => (self.crossOriginIsolated ? Math.max(1, navigator.hardwareConcurrency || 1) : 1);

// Sets up the runtime, once: how many threads, and its WebAssembly if that was fetched already.
export function prepare({ threads, wasm }) {
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.numThreads = Math.min(threads, mostThreads());
  if (wasm) ort.env.wasm.wasmBinary = wasm;
  ort.env.logLevel = "error";
  return ort.env.wasm.numThreads;
}

export function openGraph(bytes, { optimize = true, profile = false } = {}) {
  const graphOptimizationLevel = optimize ? "all" : "disabled";
  const options = { executionProviders: ["wasm"], graphOptimizationLevel, enableProfiling: profile, logSeverityLevel: 3 };
  return ort.InferenceSession.create(bytes, options);
}

// Runs a graph on arrays { name: { type, data, dims } }; returns its outputs likewise, and how long it took.
export async function runGraph(session, arrays) {
  const inputs = {};
  for (const [name, { type, data, dims }] of Object.entries(arrays)) inputs[name] = new ort.Tensor(type, data, dims);
  const start = performance.now();
  const found = await session.run(inputs);
  const ms = performance.now() - start;
  return { ms, outputs: found };
}
