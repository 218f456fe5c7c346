// Pictures come as a chosen file, are dropped, or pasted.

import { byId } from "/dom.js";

function fromFiles(transfer, event, open) {
  const [file] = transfer?.files ?? [];
  if (!file) return;
  event.preventDefault();
  open(file);
}

// Calls open(file).
export function watchFiles(open) {
  byId("file").addEventListener("change", ({ target }) => {
    if (target.files[0]) open(target.files[0]);
    target.value = ""; // the same file may be chosen again
  });
  document.addEventListener("paste", (event) => fromFiles(event.clipboardData, event, open));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    fromFiles(event.dataTransfer, event, open);
  });
}
