// The console page: gets a single-use ticket, gives the WebSocket to noVNC, and says what happens.
import RFB from "../../vendor/novnc-1.7.0/core/rfb.js";
import { errorText, post } from "../js/http.js";
import { characters, keyOf } from "./keys.js";

const words = JSON.parse(document.getElementById("console-words").textContent);
const settings = JSON.parse(document.getElementById("console-settings").textContent);
const byId = (id) => document.getElementById(id);
const RETRY_MS = [400, 1000, 2000, 4000, 8000];
const TYPE_GAP_MS = 12; // a guest in emulation drops keys that come faster
// Close codes of vms/consoles/gate.py after which trying again by itself makes no sense.
const FINAL = { 4400: "protocol", 4401: "signed_out", 4403: "revoked", 4404: "deleted", 4408: "idle", 4409: "limit", 4429: "too_many" };

let rfb = null;
let attempts = 0;
let timer = 0;
let connecting = false;
let mode = "view";
let final = false;

const machine = () => byId("machine-state").dataset;
const hasScreen = () => ["running", "paused"].includes(machine().observed);

function notice(text, { start = false, reconnect = false } = {}) {
  byId("notice").hidden = !text;
  if (text) byId("notice-text").textContent = text;
  byId("notice-start").hidden = !start;
  byId("notice-reconnect").hidden = !reconnect;
}

function enableControls() {
  const on = rfb !== null && mode === "control";
  for (const button of document.querySelectorAll("[data-control]")) button.disabled = !on;
  byId("view-only").hidden = rfb === null || mode === "control";
}

async function ticket() {
  const answer = await post(settings.ticketUrl, JSON.stringify({ kind: "vnc" }));
  if (answer.ok) return answer.json();
  const error = new Error(await errorText(answer));
  error.status = answer.status;
  throw error;
}

async function connect() {
  clearTimeout(timer);
  if (connecting || rfb) return;
  if (!hasScreen()) return waitForStart();
  connecting = true;
  final = false;
  notice(words.connecting);
  try {
    const given = await ticket();
    mode = given.mode;
    const address = new URL(given.url);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${address.pathname}`, given.protocols);
    socket.binaryType = "arraybuffer";
    socket.addEventListener("close", (event) => ended(event.code));
    attach(socket);
  } catch (error) {
    // The site knows before this page does that there is no screen: the state follows.
    if (error.status === 409) hasScreen() ? notice(error.message, { reconnect: true }) : waitForStart();
    else if (error.status && error.status < 500) notice(error.message, { reconnect: true });
    else retry(error.status ? error.message : words.network);
  } finally {
    connecting = false;
  }
}

function attach(socket) {
  rfb = new RFB(byId("screen"), socket, { shared: true });
  rfb.viewOnly = mode !== "control";
  rfb.background = "transparent";
  rfb.qualityLevel = 6;
  rfb.compressionLevel = 2;
  rfb.showDotCursor = true;
  applyScale();
  rfb.addEventListener("connect", () => {
    attempts = 0;
    notice("");
    enableControls();
    document.documentElement.dataset.console = "connected";
    rfb.focus();
  });
  rfb.addEventListener("clipboard", (event) => {
    byId("clipboard-text").value = event.detail.text;
  });
}

function ended(code) {
  rfb = null;
  enableControls();
  document.documentElement.dataset.console = "ended";
  if (FINAL[code]) {
    final = true;
    notice(words[FINAL[code]], { reconnect: ["idle", "limit", "protocol", "too_many"].includes(FINAL[code]) });
  } else if (hasScreen()) {
    retry(words.lost);
  } else {
    waitForStart();
  }
}

function waitForStart() {
  const { task, observed } = machine();
  if (task) notice(words.working, {});
  else if (observed === "shutoff") notice(words.stopped, { start: settings.mayStart });
  else if (observed === "crashed") notice(words.crashed, { start: settings.mayStart });
  else notice(words.unknown, { reconnect: true });
}

function retry(text) {
  notice(text, { reconnect: true });
  timer = setTimeout(connect, RETRY_MS[Math.min(attempts, RETRY_MS.length - 1)]);
  attempts += 1;
}

function reconnect() {
  attempts = 0;
  final = false;
  if (rfb) rfb.disconnect(); // its close event connects again
  else connect();
}

// The state of the machine is kept true by live.js: each change of its attributes is looked at.
new MutationObserver(() => {
  if (rfb || connecting || final) return;
  if (hasScreen()) {
    attempts = 0;
    connect();
  } else {
    waitForStart();
  }
}).observe(document.querySelector(".console-bar"), {
  attributes: true,
  childList: true,
  subtree: true,
  attributeFilter: ["data-observed", "data-task"],
});

// --- the bar --------------------------------------------------------------------------------
function applyScale() {
  const fit = byId("scale").getAttribute("aria-pressed") === "true";
  if (!rfb) return;
  rfb.scaleViewport = fit;
  rfb.clipViewport = !fit;
  rfb.dragViewport = !fit && mode !== "control";
}

byId("scale").addEventListener("click", (event) => {
  const button = event.currentTarget;
  const fit = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(fit));
  localStorage.setItem("kvmweb-console-fit", fit ? "1" : "0");
  applyScale();
  rfb?.focus();
});
if (localStorage.getItem("kvmweb-console-fit") === "0") byId("scale").setAttribute("aria-pressed", "false");

byId("full-screen").addEventListener("click", async () => {
  if (document.fullscreenElement) await document.exitFullscreen();
  else await document.documentElement.requestFullscreen();
  rfb?.focus();
});

byId("send-cad").addEventListener("click", () => {
  rfb?.sendCtrlAltDel();
  rfb?.focus();
});
byId("reconnect").addEventListener("click", reconnect);
byId("notice-reconnect").addEventListener("click", reconnect);
byId("notice-start").addEventListener("click", async () => {
  notice(words.starting);
  const answer = await post(settings.startUrl, "{}");
  if (!answer.ok) notice(await errorText(answer), { start: true });
});

// --- keys -----------------------------------------------------------------------------------
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function type(text) {
  for (const key of [...text].map(keyOf)) {
    if (!rfb) return;
    if (key.shift) rfb.sendKey(0xffe1, "ShiftLeft", true);
    rfb.sendKey(key.keysym, key.code);
    if (key.shift) rfb.sendKey(0xffe1, "ShiftLeft", false);
    await pause(TYPE_GAP_MS);
  }
}

for (const button of byId("key-row").querySelectorAll("button")) {
  button.addEventListener("click", () => {
    const keysym = Number(button.dataset.keysym);
    if (button.hasAttribute("aria-pressed")) {
      const down = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(down));
      rfb?.sendKey(keysym, button.dataset.code, down);
    } else {
      rfb?.sendKey(keysym, button.dataset.code);
      releaseSticky();
    }
  });
}

function releaseSticky() {
  for (const button of byId("key-row").querySelectorAll('[aria-pressed="true"]')) {
    button.setAttribute("aria-pressed", "false");
    rfb?.sendKey(Number(button.dataset.keysym), button.dataset.code, false);
  }
}

const catcher = byId("key-catcher");
byId("soft-keyboard").addEventListener("click", () => catcher.focus());
catcher.addEventListener("input", async () => {
  const text = catcher.value;
  catcher.value = "";
  await type(text);
  releaseSticky();
});
catcher.addEventListener("keydown", (event) => {
  const key = { Backspace: 0xff08, Enter: 0xff0d, Tab: 0xff09, Escape: 0xff1b }[event.key];
  if (!key) return;
  event.preventDefault();
  rfb?.sendKey(key, event.key);
});

// --- clipboard ------------------------------------------------------------------------------
byId("open-clipboard").addEventListener("click", () => {
  byId("clipboard-notice").textContent = "";
  byId("clipboard").showModal();
});
byId("clipboard").addEventListener("close", () => rfb?.focus());
byId("clipboard-send").addEventListener("click", () => {
  rfb?.clipboardPasteFrom(byId("clipboard-text").value);
  byId("clipboard").close();
});
byId("clipboard-type").addEventListener("click", async () => {
  const text = byId("clipboard-text").value;
  const lacking = characters(text).filter((character) => !keyOf(character));
  if (lacking.length) {
    byId("clipboard-notice").textContent = words.lacking.replace("%s", lacking.join(" "));
    return;
  }
  byId("clipboard").close();
  await type(text);
});

enableControls();
connect();
