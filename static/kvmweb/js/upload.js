// <form data-upload="/api/v1/images">: sends the chosen file in pieces. The server says at which
// byte to go on, so a broken connection costs one piece at most.
const RETRY_AFTER_MS = [1000, 2000, 5000, 10000, 20000, 30000];

const form = document.querySelector("form[data-upload]");
const token = () => document.querySelector('meta[name="csrf-token"]')?.content ?? "";

class Refused extends Error {}

async function call(method, path, { body, headers = {}, signal } = {}) {
  const response = await fetch(form.dataset.upload + path, {
    method,
    body,
    signal,
    credentials: "same-origin",
    headers: { "X-CSRFToken": token(), Accept: "application/json", ...headers },
  });
  const type = response.headers.get("Content-Type") ?? "";
  const answer = type.includes("json") ? await response.json() : {};
  if (response.ok) return answer;
  if (response.status === 409 && Number.isInteger(answer.params?.offset)) {
    return { offset: answer.params.offset };
  }
  if (response.status >= 500) throw new TypeError(answer.detail ?? response.statusText);
  const reasons = (answer.errors ?? []).map((error) => error.message).join(" ");
  throw new Refused(reasons || answer.detail || answer.title || response.statusText);
}

function details() {
  const values = {};
  for (const input of form.elements) {
    if (!input.name?.startsWith("upload-")) continue;
    const name = input.name.slice("upload-".length);
    if (input.type === "checkbox") values[name] = input.checked;
    else if (input.type === "number") values[name] = input.value ? Number(input.value) : null;
    else values[name] = input.value.trim() || null;
  }
  for (const name of Object.keys(values)) if (values[name] === null) delete values[name];
  return values;
}

function show(share, retrying) {
  const box = form.querySelector("[data-upload-progress]");
  box.hidden = false;
  box.querySelector("progress").value = share;
  box.querySelector("[data-upload-percent]").textContent = `${Math.floor(share * 100)} %`;
  box.querySelector("[data-upload-retrying]").hidden = !retrying;
}

function tell(text) {
  const box = form.querySelector("[data-upload-error]");
  box.hidden = !text;
  box.querySelector("p").textContent = text;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function sendPieces(id, file, signal) {
  const size = Number(form.dataset.chunkBytes);
  let offset = 0;
  let failures = 0;
  show(0, false);
  while (offset < file.size) {
    try {
      if (failures) offset = (await call("GET", `/${id}/upload`, { signal })).offset;
      if (offset >= file.size) break;
      const answer = await call("PATCH", `/${id}/upload`, {
        body: file.slice(offset, offset + size),
        headers: {
          "Content-Type": "application/offset+octet-stream",
          "Upload-Offset": String(offset),
        },
        signal,
      });
      offset = answer.offset;
      failures = 0;
      show(offset / file.size, false);
    } catch (error) {
      // fetch says TypeError when there is no connection.
      if (!(error instanceof TypeError) || failures >= 20) throw error;
      show(offset / file.size, true);
      await pause(RETRY_AFTER_MS[Math.min(failures, RETRY_AFTER_MS.length - 1)]);
      failures += 1;
    }
  }
}

async function upload() {
  const file = form.elements.file.files[0];
  if (!file) {
    form.elements.file.focus();
    return;
  }
  const button = form.querySelector("button.primary");
  const abort = new AbortController();
  const leaving = (event) => event.preventDefault();
  let id = null;
  tell("");
  button.disabled = true;
  addEventListener("beforeunload", leaving);
  form.querySelector("[data-upload-cancel]").onclick = () => abort.abort();
  try {
    const wanted = { ...details(), size_bytes: file.size, file_name: file.name };
    wanted.name ??= file.name.replace(/\.(qcow2|img|raw)$/i, "");
    const begun = await call("POST", "/uploads", {
      body: JSON.stringify(wanted),
      headers: { "Content-Type": "application/json" },
      signal: abort.signal,
    });
    id = begun.id;
    await sendPieces(id, file, abort.signal);
    removeEventListener("beforeunload", leaving);
    location.assign(form.dataset.goal);
  } catch (error) {
    removeEventListener("beforeunload", leaving);
    if (id !== null && !(error instanceof TypeError)) {
      await call("DELETE", `/${id}/upload`).catch(() => {});
    }
    if (error.name !== "AbortError") tell(error.message);
    form.querySelector("[data-upload-progress]").hidden = true;
    button.disabled = false;
  }
}

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  upload();
});
