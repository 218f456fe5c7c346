// Keeps the folder's files, so that the page works without a network, and lets it have threads on any static host: a page
// has them only if its answers say that it is isolated from others. What says so also forbids it to speak to others.

importScripts("files.js");

const { version, files } = self.FOLDER;
const { scope } = self.registration;
const CACHE = `quantsam ${scope} ${version}`;
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Content-Security-Policy": "default-src 'self' blob: data:; script-src 'self' 'wasm-unsafe-eval'; object-src 'none'; base-uri 'none'",
};
const BIG = /\.(wasm|onnx)$/; // kept when the page first asks for them

self.addEventListener("install", (event) => {
  const small = Object.keys(files).filter((name) => !BIG.test(name));
  const keep = async () => (await caches.open(CACHE)).addAll(small.map((name) => new Request(name, { cache: "no-cache" })));
  event.waitUntil(keep());
});

self.addEventListener("activate", (event) => {
  const tidy = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith(`quantsam ${scope} `) && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(tidy());
});

function isolated(answer) {
  const headers = new Headers(answer.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers });
}

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method !== "GET" || !url.startsWith(scope)) return;
  const name = new URL(url).pathname.slice(new URL(scope).pathname.length) || "index.html";
  if (!Object.hasOwn(files, name)) return;
  const found = async () => {
    const cache = await caches.open(CACHE);
    const kept = await cache.match(name);
    if (kept) return isolated(kept);
    const fresh = await fetch(name, { cache: "no-cache" });
    if (fresh.ok) event.waitUntil(cache.put(name, fresh.clone()));
    return isolated(fresh);
  };
  event.respondWith(found());
});
