// What Python asks is passed on to a worker, which may wait for its threads. Answers are { found } or { error }.

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let count = 0;

worker.addEventListener("message", ({ data: { id, ...answer } }) => {
  waiting.get(id)(answer);
  waiting.delete(id);
});
worker.addEventListener("error", ({ message }) => {
  for (const answer of waiting.values()) answer({ error: message || "the worker cannot be loaded" });
  waiting.clear();
});

self.ask = (message) =>
  new Promise((answer) => {
    const id = ++count;
    waiting.set(id, answer);
    worker.postMessage({ id, ...message });
  });
