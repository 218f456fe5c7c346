// The picture is opened and changed; its masks become files.

import { stop } from "/asking.js";
import { shownNumbers } from "/candidates.js";
import { close } from "/detail.js";
import { byId, complain, say } from "/dom.js";
import { emptyHistory } from "/history.js";
import { NOTHING } from "/prompts.js";
import { download, fileName, savedObject } from "/saving.js";
import { saveMasks, sendPicture } from "/server.js";
import { arrange, showSave } from "/show.js";
import { countObjects, state } from "/state.js";
import { WHOLE } from "/zoom.js";

let opened = 0; // number of the picture that was asked for last

// Shows a picture once it is here, unless another one was asked for since; a refusal leaves all as it is.
export async function open(load, name, what) {
  const number = ++opened;
  state.refusal = false;
  say(what, { busy: true });
  try {
    const picture = await load();
    if (number === opened) changePicture({ ...picture, name, source: `/api/pictures/${picture.picture}` });
  } catch (error) {
    if (number === opened) refuse(error);
  }
}

function changePicture(picture) {
  stop();
  close(state.picture);
  const fresh = { prompts: NOTHING, history: emptyHistory(), rubber: null, chosen: 0, view: WHOLE, picked: new Map() };
  Object.assign(state, { picture, refusal: false, ...fresh });
  for (const [id, most] of [["x0", "width"], ["x1", "width"], ["px", "width"], ["y0", "height"], ["y1", "height"], ["py", "height"]]) {
    byId(id).max = picture[most];
  }
  arrange();
  say(`${picture.width} x ${picture.height} pixels; drag a box around an object, or click on it`);
}

function refuse(error) {
  state.refusal = true;
  complain(error);
}

export function openFile(file) {
  const most = state.options.upload_bytes;
  if (file.size > most) {
    return refuse(new Error(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB, an image may have at most ${most / 1e6} MB`));
  }
  return open(() => sendPicture(file), file.name, `sending ${file.name}`);
}

export async function save(kind) {
  const { picture, request } = state;
  const scheme = byId("save-scheme").value;
  const object = kind === "coco" ? null : savedObject(countObjects(), state.chosen);
  const numbers = shownNumbers(state.results.get(scheme), state.picked.get(scheme));
  const name = fileName(kind, picture.name, scheme, object);
  state.saving = true;
  showSave();
  say(`making ${name}`, { busy: true });
  try {
    download(await saveMasks({ ...request, scheme, kind, chosen: object, numbers, file_name: picture.name }), name);
    say(`saved ${name}`);
  } catch (error) {
    complain(error);
  }
  state.saving = false;
  showSave();
}
