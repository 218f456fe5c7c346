// Undo and redo: the values that were, and those that were taken back.

export const emptyHistory = () => ({ past: [], future: [] });

export const canUndo = (history) => history.past.length > 0;
export const canRedo = (history) => history.future.length > 0;

// Notes what was before a change; what was taken back before it is gone.
export function remember(history, before) {
  history.past.push(before);
  history.future.length = 0;
}

export function undo(history, present) {
  history.future.push(present);
  return history.past.pop();
}

export function redo(history, present) {
  history.past.push(present);
  return history.future.pop();
}
