// Opens a graph that Python names, and runs it; bytes come and go by requests to Python's own server.

import { openGraph, prepare, runGraph } from "./graph.js";

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
};
let session = null;

const printed = [];
console.log = (...words) => printed.push(words.join(" ")); // where the runtime prints its profile

async function read(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return answer.arrayBuffer();
}

const actions = {
  events() {
    session.endProfiling();
    return printed.splice(0).join("\n");
  },
  prepare,
  async open({ url, optimize, profile }) {
    session = await openGraph(new Uint8Array(await read(url)), { optimize, profile });
    return session.inputMetadata.map(({ name, shape }) => ({ name, shape }));
  },
  async run({ url, arrays, answer }) {
    const buffer = await read(url);
    const inputs = {};
    for (const { name, type, dims, start, count } of arrays) inputs[name] = { type, dims, data: new ARRAYS[type](buffer, start, count) };
    const { ms, outputs } = await runGraph(session, inputs);
    const told = Object.entries(outputs).map(([name, { type, dims, data }]) => ({ name, type, dims, bytes: data.byteLength }));
    await fetch(answer, { method: "POST", body: new Blob(Object.values(outputs).map(({ data }) => data)) });
    return { ms, arrays: told };
  },
};

self.addEventListener("message", async ({ data: { id, action, ...given } }) => {
  try {
    self.postMessage({ id, found: await actions[action](given) });
  } catch (error) {
    self.postMessage({ id, error: error?.message ?? String(error) });
  }
});
