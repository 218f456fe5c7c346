// What the browser must have, and what the service worker gives: threads and a page without a network.

import "./files.js";

const CONTROL_MS = 3000;
const RELOADED = `quantsam reloaded ${self.FOLDER.version}`;
// a function that adds no vectors: it is valid where there is SIMD
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);

// Says what this browser lacks; null if it has all.
export function lacking() {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) return "WebAssembly with SIMD";
  if (typeof OffscreenCanvas !== "function") return "OffscreenCanvas";
  return null;
}

function controlled() {
  if (navigator.serviceWorker.controller) return Promise.resolve();
  return new Promise((done) => {
    navigator.serviceWorker.addEventListener("controllerchange", done, { once: true });
    setTimeout(done, CONTROL_MS);
  });
}

// Registers the service worker; loads the page once more where that gives it threads. Returns false while it does.
export async function settle() {
  if (!("serviceWorker" in navigator)) return true; // not a secure place: one thread, and no page without network
  try {
    await navigator.serviceWorker.register("sw.js");
    await controlled();
  } catch {
    return true; // the browser does not allow it here
  }
  if (self.crossOriginIsolated || !navigator.serviceWorker.controller) return true;
  if (sessionStorage.getItem(RELOADED)) return true;
  sessionStorage.setItem(RELOADED, "yes");
  location.reload();
  return false;
}

// Whether all files are kept, so that the page works without a network.
export async function isKept() {
  if (!navigator.serviceWorker?.controller) return false;
  const found = await Promise.all(Object.keys(self.FOLDER.files).map((name) => caches.match(new URL(name, location.href))));
  return found.every(Boolean);
}
