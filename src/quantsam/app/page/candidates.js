// The three masks that SAM gives for a prompt: which one is shown, and how it compares with FP32's.

import { button, element } from "/dom.js";

export const percent = (value) => `${(100 * value).toFixed(1)} %`;

// All masks of an object in the order of the model's outputs; a mask that was found without a prompt is alone.
const candidates = (mask) => [mask, ...(mask.others ?? [])].sort((a, b) => a.number - b.number);

// The mask of each object that is shown: the one that was picked, else that of highest predicted IoU, which is `mask`.
export const shownMasks = (panel, picked) =>
  panel.masks.map((mask, i) => candidates(mask).find(({ number }) => number === picked?.[i]) ?? mask);

export const shownNumbers = (panel, picked) =>
  shownMasks(panel, picked).map(({ number }) => number).filter((number) => number !== undefined);

// The IoU of each shown mask with FP32's shown one; null for FP32 itself.
export function iousWithFp32(panel, reference, picked) {
  if (!panel.ious || !panel.iou_tables) return panel.ious ?? null;
  const rows = shownNumbers(reference, picked.get(reference.name));
  const columns = shownNumbers(panel, picked.get(panel.name));
  return panel.iou_tables.map((table, i) => table[rows[i]][columns[i]]);
}

export const mean = (values) => (values?.length ? values.reduce((a, b) => a + b) / values.length : null);

// What the mean of so many such IoUs is called.
export const iouName = (count) => (count > 1 ? "mean IoU with FP32" : "IoU with FP32");

// A button for each mask of the chosen object; pressed is the one that is shown.
export function candidateButtons(panel, { object, picked, title, pick }) {
  const mask = panel.masks[object];
  if (!mask?.others) return [];
  const all = candidates(mask);
  const shown = shownMasks(panel, picked)[object].number;
  const several = panel.masks.length > 1;
  const made = all.map(({ number, predicted_iou }, i) => {
    const label = `${title}: mask ${i + 1} of ${all.length}, predicted IoU ${percent(predicted_iou)}`;
    const one = button(percent(predicted_iou), label, `mask-${panel.name}-${number}`, () => pick(panel.name, number));
    one.setAttribute("aria-pressed", String(number === shown));
    one.title = `mask ${i + 1} of ${all.length}`;
    return one;
  });
  const group = element("div", { className: "candidates" });
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", `Masks of ${title}${several ? ` for object ${object + 1}` : ""}`);
  group.append(element("span", { className: "hint", textContent: `${several ? `object ${object + 1}: ` : ""}predicted IoU` }), ...made);
  return [group];
}
