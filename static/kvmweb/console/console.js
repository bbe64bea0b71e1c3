// The console: gets single-use tickets, gives the WebSocket to noVNC or to xterm.js, says what
// happens, and comes back by itself.
import { preferences, remember } from "../js/consoles.js";
import { copyText } from "../js/copy.js";
import { errorText, post } from "../js/http.js";
import { word as siteWord } from "../js/words.js";
import { showToast } from "../js/toasts.js";
import { keysymOf, sequenceOf } from "./keys.js";
import { startPaste } from "./paste.js";
import { Screen } from "./screen.js";
import "./sharing.js";

const words = JSON.parse(document.getElementById("console-words").textContent);
const settings = JSON.parse(document.getElementById("console-settings").textContent);
const byId = (id) => document.getElementById(id);
const root = byId("console");
const RETRY_MS = [300, 800, 2000, 4000, 8000];
const STRIP_MS = 6000;
const FONT = { least: 9, most: 28, usual: 14 };
// Close codes of vms/consoles/gate.py after which trying again by itself makes no sense.
const FINAL = { 4400: "protocol", 4401: "signed_out", 4403: "revoked", 4404: "deleted", 4408: "idle", 4409: "limit", 4429: "too_many" };
// Of a 4503: what somebody must do first.
const MUST_ACT = { "console.ssh": "ssh", "console.next_start": "next_start", "console.no_password": "no_password" };
const AGAIN_BY_HAND = ["idle", "limit", "protocol", "too_many"];
const UNAVAILABLE = 4503;
// Control moved between people: another ticket, at once.
const MOVED = { 4411: "handed_over", 4412: "control_given" };

const chosen = {
  size: "fit",
  pointer: "dot",
  quality: 6,
  compression: 2,
  font: FONT.usual,
  aloud: false,
  kind: "vnc",
  layout: "us",
  ...preferences(settings.uuid),
  only_look: false, // never remembered: who comes back wants to type
  label: byId("screen").closest("section").getAttribute("aria-label"),
};

const screen = new Screen(byId("screen"), chosen, {
  connected: () => connected(),
  clipboard: (text) => (byId("clipboard-text").value = text),
  leave: () => goToTools(),
  unwilling: (mode) => say(mode === "control" ? words.no_resize : words.not_yours_to_size),
});
let serial = null; // made when its tab is opened first
let kind = chosen.kind === "serial" ? "serial" : "vnc";
let mode = "view";
let attempts = 0;
let timer = 0;
let connecting = false;
let final = false;
let wantsFocus = false; // a click on a tab: who clicks there wants to type
let again = null; // what to ask for when the connection that is being closed has ended
let seen = { host: machine().host, rebooted: machine().rebooted, asking: "" };

const paste = startPaste({
  words,
  settings,
  chosen,
  kind: () => kind,
  screen,
  serial: () => serial,
  focus: () => view()?.focus(),
});

function machine() {
  return byId("machine-state").dataset;
}

function hasScreen() {
  return ["running", "paused"].includes(machine().observed);
}

function view() {
  return kind === "serial" ? serial : screen;
}

// --- what is said ---------------------------------------------------------------------------
function notice(text, { reconnect = false, next = false } = {}) {
  byId("notice").hidden = !text;
  if (text) byId("notice-text").textContent = text;
  for (const button of byId("notice").querySelectorAll("[data-next]"))
    button.hidden = !next || machine().next !== button.dataset.next;
  byId("notice-reconnect").hidden = !reconnect;
}

let stripTimer = 0;
let lasting = ""; // said for as long as it is so

function say(text) {
  if (paste.busy()) return; // its progress stands there
  clearTimeout(stripTimer);
  byId("strip").hidden = !(text || lasting);
  byId("strip-text").textContent = text || lasting;
  if (text) stripTimer = setTimeout(() => say(""), STRIP_MS);
}

function hold(text) {
  lasting = text;
  say("");
}

function enableControls() {
  const open = Boolean(view()?.open);
  for (const button of document.querySelectorAll("[data-control]")) button.disabled = !(open && mode === "control");
  byId("view-only").hidden = !open || mode === "control";
}

function mark(state) {
  document.documentElement.dataset.console = state;
  document.documentElement.dataset.consoleKind = kind;
}

// --- the line -------------------------------------------------------------------------------
async function ticket(wanted) {
  let answer;
  try {
    answer = await post(`${settings.api}/console`, JSON.stringify({ kind, ...wanted }));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new Refusal(words.network, 0);
  }
  if (answer.ok) return answer.json();
  throw new Refusal(await errorText(answer), answer.status);
}

class Refusal extends Error {
  constructor(text, status) {
    super(text);
    this.status = status; // 0: the site did not answer
  }
}

async function connect(wanted = chosen.only_look ? { mode: "view" } : {}) {
  clearTimeout(timer);
  if (connecting || view()?.open) return;
  if (!hasScreen()) return waitForScreen();
  connecting = true;
  final = false;
  const asked = kind;
  if (!attempts) notice(words.connecting); // else why it is tried again stays there
  try {
    const [given, ready] = await Promise.all([ticket(wanted), asked === "serial" ? openSerial() : screen]);
    if (asked !== kind) return; // another tab was chosen meanwhile
    mode = given.mode;
    const address = new URL(given.url);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${address.pathname}`, given.protocols);
    socket.binaryType = "arraybuffer";
    socket.addEventListener("close", (event) => ended(ready, event.code, event.reason));
    ready.attach(socket, given);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    failed(error);
  } finally {
    connecting = false;
    if (asked !== kind) connect();
  }
}

function failed(error) {
  // The site knows before this page does that there is no screen: the state follows.
  if (error.status === 404) giveUp(words.gone);
  else if (error.status === 409 && !hasScreen()) waitForScreen();
  else if (error.status && error.status < 500 && error.status !== 429) notice(error.message, { reconnect: true });
  else retry(error.message);
}

// Nothing that this page could try again.
function giveUp(text, reconnect = false) {
  final = true;
  notice(text, { reconnect });
}

function connected() {
  attempts = 0;
  sayPaused();
  enableControls();
  mark("connected");
  const at = document.activeElement;
  if (wantsFocus || !at || at === document.body || at.closest("#notice")) view().focus();
  wantsFocus = false;
}

function ended(which, code, reason) {
  which.ended();
  if (which !== view()) return;
  hold("");
  enableControls();
  mark("ended");
  if (again) {
    const wanted = again;
    again = null;
    attempts = 0;
    connect(wanted);
  } else if (MOVED[code]) {
    say(words[MOVED[code]]);
    if (MOVED[code] === "control_given") onlyLook(false);
    attempts = 0;
    connect();
  } else if (FINAL[code]) {
    giveUp(words[FINAL[code]], AGAIN_BY_HAND.includes(FINAL[code]));
  } else if (final) {
    notice(words.left, { reconnect: true });
  } else if (MUST_ACT[reason]) {
    notice(words[MUST_ACT[reason]], { reconnect: true });
  } else if (hasScreen()) {
    retry(code === UNAVAILABLE ? words[reason === "console.wrong_screen" ? "wrong_screen" : "host"] : words.lost);
  } else {
    waitForScreen();
  }
}

function sayPaused() {
  const { observed, task, says } = machine();
  notice(observed === "paused" && !task ? says : "", { next: true });
}

function waitForScreen() {
  const { observed, task, says } = machine();
  notice(says, { next: true, reconnect: observed === "unknown" && !task });
}

function retry(text) {
  notice(text, { reconnect: true });
  timer = setTimeout(() => connect(), RETRY_MS[Math.min(attempts, RETRY_MS.length - 1)]);
  attempts += 1;
}

// Close what is open, and ask for another ticket.
function reconnect(wanted) {
  attempts = 0;
  final = false;
  if (view()?.open) {
    again = wanted ?? (chosen.only_look ? { mode: "view" } : {});
    view().close();
  } else {
    connect(wanted);
  }
}

// The state of the machine is kept true by live.js: each change of its attributes is looked at.
function stateChanged() {
  const now = machine();
  if (now.host && seen.host && now.host !== seen.host) say(words.moved.replace("%s", now.host));
  else if (now.rebooted !== seen.rebooted) say(words.rebooted);
  const { asking } = byId("people").dataset;
  if (asking && asking !== seen.asking) say(asking);
  seen = { host: now.host || seen.host, rebooted: now.rebooted, asking };
  if (view()?.open) {
    if (now.task) say(now.says);
    sayPaused();
    return;
  }
  if (connecting || final) return;
  if (hasScreen()) {
    attempts = 0;
    connect();
  } else {
    waitForScreen();
  }
}

new MutationObserver(stateChanged).observe(document.querySelector(".console-bar"), {
  attributes: true,
  childList: true,
  subtree: true,
  attributeFilter: ["data-observed", "data-task", "data-host", "data-rebooted", "data-says", "data-next", "data-asking"],
});

// --- the two kinds --------------------------------------------------------------------------
async function openSerial() {
  if (serial) return serial;
  const { Serial } = await import("./serial.js");
  serial = new Serial(byId("terminal"), chosen, {
    connected,
    mode: (now) => {
      say(words[now === "control" ? "control_given" : "handed_over"]);
      mode = now;
      enableControls();
    },
    leave: () => goToTools(),
    escape: leaveConsole,
    link: askToOpen,
    skipped: (bytes) => say(words.skipped.replace("%s", `${Math.ceil(bytes / 1024)} KiB`)),
    dropped: (bytes) => say(words.dropped.replace("%s", bytes)),
    line: (why) => {
      hold(why ? (words[`line_${why}`] ?? words.line_host) : "");
      if (!why) say(words.line_open);
    },
    ended: () => {},
    resized: showSize,
    search: openSearch,
    copied: copyQuietly,
  });
  showSize(serial.terminal.cols, serial.terminal.rows);
  return serial;
}

function showKind() {
  for (const tab of document.querySelectorAll(".console-kinds [role=tab]")) {
    const on = tab.dataset.kind === kind;
    tab.setAttribute("aria-selected", String(on));
    tab.tabIndex = on ? 0 : -1;
  }
  byId("screen").hidden = kind !== "vnc";
  byId("terminal").hidden = kind !== "serial";
  for (const part of document.querySelectorAll("[data-of]")) part.hidden = part.dataset.of !== kind;
  if (kind !== "serial") closeSearch();
  document.documentElement.dataset.consoleKind = kind;
}

function choose(next) {
  if (next === kind) return;
  const before = view();
  hold("");
  kind = next;
  chosen.kind = next;
  remember(settings.uuid, { kind });
  final = false;
  again = null;
  before?.close();
  showKind();
  mark("connecting");
  mode = "view";
  enableControls();
  reconnect();
}

document.querySelector(".console-kinds").addEventListener("click", (event) => {
  const tab = event.target.closest("[role=tab]");
  if (!tab) return;
  wantsFocus = event.detail > 0;
  if (tab.dataset.kind === kind) view()?.focus();
  else choose(tab.dataset.kind);
});
document.querySelector(".console-kinds").addEventListener("keydown", (event) => {
  if (!["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
  event.preventDefault();
  choose(kind === "vnc" ? "serial" : "vnc");
  document.querySelector(`.console-kinds [data-kind=${kind}]`).focus();
});

// --- ways out -------------------------------------------------------------------------------
function goToTools() {
  document.querySelector(".console-kinds [aria-selected=true]").focus();
}

// As Ctrl+] of "virsh console": back to the machine; the line is closed.
function leaveConsole() {
  const goal = byId("leave");
  if (goal) {
    goal.click();
    return;
  }
  final = true;
  view()?.close();
  goToTools();
}

byId("other-place")?.addEventListener("click", () => {
  remember(settings.uuid, { place: root.dataset.place === "window" ? "beside" : "window" });
});

byId("full-screen").addEventListener("click", async () => {
  if (document.fullscreenElement) await document.exitFullscreen();
  else await root.requestFullscreen();
  view()?.focus();
});

function onlyLook(on) {
  chosen.only_look = on;
  document.querySelector("[data-set=only_look]").checked = on;
}

// --- choices of the person ------------------------------------------------------------------
function showChoices() {
  for (const input of document.querySelectorAll("[data-set]")) {
    const value = chosen[input.dataset.set];
    if (input.type === "radio") input.checked = input.value === value;
    else if (input.type === "checkbox") input.checked = Boolean(value);
    else input.value = value;
  }
}

byId("view-menu").addEventListener("change", (event) => {
  const input = event.target.closest("[data-set]");
  if (!input) return;
  const name = input.dataset.set;
  chosen[name] = input.type === "checkbox" ? input.checked : input.value;
  if (name === "only_look") {
    reconnect();
    return;
  }
  remember(settings.uuid, { [name]: chosen[name] });
  view()?.apply();
  if (name === "size") screen.watchSize();
});

const DOES = {
  screenshot: savePicture,
  smaller: () => setFont(chosen.font - 1),
  larger: () => setFont(chosen.font + 1),
  clear: () => serial?.clear(),
  "copy-all": () => copyQuietly(serial?.wholeText() ?? ""),
  "save-log": saveLog,
};

byId("view-menu").addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) DOES[button.dataset.do]();
});

function setFont(size) {
  chosen.font = Math.min(FONT.most, Math.max(FONT.least, size));
  remember(settings.uuid, { font: chosen.font });
  serial?.apply();
}

async function savePicture() {
  const blob = await screen.picture();
  if (!blob) return;
  save(blob, "png");
  say(words.saved);
}

async function saveLog() {
  try {
    const { wholeLog } = await import("./serial.js");
    const given = await ticket({ kind: "serial", mode: "view" });
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const address = `${scheme}//${location.host}${new URL(given.url).pathname}/log`;
    const blob = await wholeLog(new WebSocket(address, given.protocols));
    if (!blob.size) return say(words.log_empty);
    save(blob, "log");
    say(words.log_saved);
  } catch (error) {
    say(error instanceof Refusal ? error.message : words.log_lost);
  }
}

function save(blob, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  const now = new Date().toISOString().slice(0, 19).replaceAll(":", "");
  link.download = `${settings.name}-${now}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function copyQuietly(text) {
  if (!text) return;
  say(siteWord((await copyText(text)) ? "copied" : "noCopy"));
  view()?.focus();
}

byId("reconnect").addEventListener("click", () => reconnect());
byId("notice-reconnect").addEventListener("click", () => reconnect());
byId("notice").addEventListener("click", async (event) => {
  const button = event.target.closest("[data-next]");
  if (!button) return;
  notice(words.starting);
  const answer = await post(`${settings.api}/${button.dataset.next}`, "{}");
  if (!answer.ok) showToast({ text: await errorText(answer), tone: "bad" });
  if (!answer.ok) waitForScreen();
});

// --- keys -----------------------------------------------------------------------------------
byId("keys-menu").addEventListener("click", (event) => {
  const button = event.target.closest("[data-keys]");
  if (!button) return;
  screen.press(button.dataset.keys.split(" "));
  byId("keys-menu").hidePopover();
  screen.focus();
});

const sticky = () => [...byId("key-row").querySelectorAll('[aria-pressed="true"]')];

byId("key-row").addEventListener("click", (event) => {
  const button = event.target.closest("[data-code]");
  if (!button) return;
  const { code } = button.dataset;
  if (button.hasAttribute("aria-pressed")) {
    const down = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(down));
    if (kind === "vnc") screen.send(keysymOf(code), code, down);
    return;
  }
  if (kind === "vnc") screen.press([code]);
  else serial?.sendText((held("AltLeft") ? "\x1b" : "") + sequenceOf(code));
  releaseSticky();
});

function held(code) {
  return sticky().some((button) => button.dataset.code === code);
}

function releaseSticky() {
  for (const button of sticky()) {
    button.setAttribute("aria-pressed", "false");
    const { code } = button.dataset;
    if (kind === "vnc") screen.send(keysymOf(code), code, false);
  }
}

const catcher = byId("key-catcher");
byId("soft-keyboard").addEventListener("click", () => catcher.focus());
catcher.addEventListener("input", async () => {
  const text = catcher.value;
  catcher.value = "";
  if (kind === "serial") {
    const first = text.toUpperCase().charCodeAt(0);
    const control = held("ControlLeft") && first >= 64 && first < 96;
    serial?.sendText((held("AltLeft") ? "\x1b" : "") + (control ? String.fromCharCode(first - 64) : text));
  } else {
    await paste.type(text);
  }
  releaseSticky();
});
catcher.addEventListener("keydown", (event) => {
  if (!["Backspace", "Enter", "Tab", "Escape"].includes(event.key)) return;
  event.preventDefault();
  if (kind === "serial") serial?.sendText(sequenceOf(event.key));
  else screen.press([event.key]);
});

// --- the terminal's own tools ---------------------------------------------------------------
function showSize(cols, rows) {
  byId("terminal-size").textContent = `${cols} × ${rows}`;
  byId("copy-stty").dataset.copy = `stty rows ${rows} cols ${cols}`;
}

function openSearch() {
  byId("search-bar").hidden = false;
  byId("open-search").setAttribute("aria-expanded", "true");
  byId("search-text").focus();
  byId("search-text").select();
}

function closeSearch() {
  byId("search-bar").hidden = true;
  byId("search-none").textContent = "";
  byId("open-search").setAttribute("aria-expanded", "false");
}

function find(back) {
  const text = byId("search-text").value;
  if (!text || !serial) return;
  byId("search-none").textContent = serial.find(text, back) ? "" : words.not_found;
}

byId("open-search").addEventListener("click", () => (byId("search-bar").hidden ? openSearch() : closeSearch()));
byId("search-bar").addEventListener("submit", (event) => {
  event.preventDefault();
  find(true); // what was said last is looked at first
});
byId("search-after").addEventListener("click", () => find(false));
byId("search-bar").addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  closeSearch();
  serial?.focus();
});
byId("search-close").addEventListener("click", () => {
  closeSearch();
  serial?.focus();
});

// An address that the guest wrote is shown in full before anything is opened.
function askToOpen(text) {
  let address;
  try {
    address = new URL(text);
  } catch {
    return;
  }
  if (!["http:", "https:"].includes(address.protocol)) return;
  byId("open-link-address").textContent = address.href;
  byId("open-link-go").href = address.href;
  byId("open-link").showModal();
}

// --- begin ----------------------------------------------------------------------------------
remember(settings.uuid, { place: root.dataset.place });
showChoices();
showKind();
enableControls();
connect();
