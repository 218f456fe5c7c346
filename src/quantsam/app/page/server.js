// What the server offers; every failure is an Error whose message may be shown.

async function checked(response) {
  if (response.ok) return response;
  let message = `the server answered ${response.status}`;
  try {
    message = (await response.json()).error ?? message;
  } catch {
    // not JSON: the status has to do
  }
  throw new Error(message);
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is it still running?");
  }
  return checked(response);
}

export async function getOptions() {
  return (await call("/api/options")).json();
}

export async function takeExample(number) {
  return (await call(`/api/examples/${number}`, { method: "POST" })).json();
}

export async function sendPicture(file) {
  const headers = { "Content-Type": "application/octet-stream" };
  return (await call("/api/pictures", { method: "POST", headers, body: file })).json();
}

export async function fullPicture(token) {
  return (await call(`/api/pictures/${token}/full`)).blob();
}

const asJson = (request) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) });

export async function saveMasks(request) {
  return (await call("/api/save", asJson(request))).blob();
}

// Yields the events of an answer as they come: a status, a panel, the end.
export async function* askMasks(request, signal) {
  const response = await call("/api/masks", { ...asJson(request), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}
