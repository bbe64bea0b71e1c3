// Plays recordings: a serial line in xterm.js, a screen in noVNC fed by a channel of ours.
import RFB from "../../vendor/novnc-1.7.0/core/rfb.js";
import { enter, readCast, readFbs } from "./recordings.js";

const settings = JSON.parse(document.getElementById("player-settings").textContent);
const { words } = settings;
const byId = (id) => document.getElementById(id);
const TICK_MS = 40;

// What noVNC takes for an open data channel; it asks for updates, and nobody listens.
class Channel {
  send = () => {};
  close = () => {};
  binaryType = "arraybuffer";
  onopen = null;
  onclose = null;
  onerror = null;
  onmessage = null;
  protocol = "";
  readyState = "open";

  feed(bytes) {
    this.onmessage?.({ data: bytes.slice().buffer });
  }
}

// A message of the server that says no more than how large the screen is (DesktopSize, -223).
function sizeMessage(width, height) {
  const message = new DataView(new ArrayBuffer(16));
  message.setUint16(2, 1);
  message.setUint16(8, width);
  message.setUint16(10, height);
  message.setInt32(12, -223);
  return new Uint8Array(message.buffer);
}

class ScreenPlayer {
  constructor(buffer) {
    this.pieces = readFbs(buffer);
    this.next = 1;
    this.channel = new Channel();
    this.rfb = new RFB(byId("screen"), this.channel, {});
    this.rfb.viewOnly = true;
    this.rfb.scaleViewport = true;
    this.rfb.background = "transparent";
    byId("screen").querySelector("canvas").setAttribute("role", "img");
    byId("screen").querySelector("canvas").setAttribute("aria-label", document.querySelector("h1").textContent);
    if (this.pieces.length) this.channel.feed(this.pieces[0].data);
  }

  get length() {
    return this.pieces.at(-1)?.at ?? 0;
  }

  seek(milliseconds) {
    const { piece, width, height } = enter(this.pieces, settings.entries, milliseconds);
    this.next = Math.max(1, piece);
    if (width) this.channel.feed(sizeMessage(width, height));
    this.play(milliseconds);
  }

  play(milliseconds) {
    while (this.next < this.pieces.length && this.pieces[this.next].at <= milliseconds) {
      this.channel.feed(this.pieces[this.next].data);
      this.next += 1;
    }
  }
}

class SerialPlayer {
  constructor(text, makeTerminal) {
    this.cast = readCast(text);
    this.next = 0;
    this.terminal = makeTerminal({ cols: this.cast.width, rows: this.cast.height, disableStdin: true });
    this.terminal.open(byId("terminal"));
  }

  get length() {
    return this.cast.events.at(-1)?.[0] ?? 0;
  }

  seek(milliseconds) {
    this.terminal.reset();
    this.terminal.resize(this.cast.width, this.cast.height);
    this.next = 0;
    this.play(milliseconds);
  }

  play(milliseconds) {
    const { events } = this.cast;
    while (this.next < events.length && events[this.next][0] <= milliseconds) {
      const [, kind, text] = events[this.next];
      if (kind === "o") this.terminal.write(text);
      else if (kind === "r") this.terminal.resize(...text.split("x").map(Number));
      this.next += 1;
    }
  }
}

async function load() {
  const answer = await fetch(settings.data, { credentials: "same-origin" });
  if (!answer.ok) return null; // its file is gone, or the sign-in has ended
  if (settings.kind === "vnc") return new ScreenPlayer(await answer.arrayBuffer());
  const { makeTerminal } = await import("./serial.js");
  return new SerialPlayer(await answer.text(), makeTerminal);
}

function clock(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

function begin(player) {
  const length = Math.max(player.length, 1);
  let at = 0;
  let last = 0;
  let timer = 0;

  function show() {
    byId("seek").value = at;
    byId("seek").setAttribute("aria-valuetext", clock(at));
    byId("clock").textContent = `${clock(at)} / ${clock(length)}`;
  }

  function run(on) {
    clearInterval(timer);
    timer = 0;
    if (on) {
      if (at >= length) {
        at = 0;
        player.seek(0);
      }
      last = performance.now();
      timer = setInterval(tick, TICK_MS);
    }
    const use = byId("play").querySelector("use");
    use.setAttribute("href", `${use.getAttribute("href").split("#")[0]}#${on ? "pause" : "play"}`);
    byId("play-word").textContent = on ? words.pause : words.play;
    document.documentElement.dataset.player = on ? "playing" : "paused";
  }

  function tick() {
    const now = performance.now();
    at = Math.min(length, at + (now - last) * Number(byId("speed").value));
    last = now;
    player.play(at);
    show();
    if (at >= length) run(false);
  }

  byId("seek").max = length;
  byId("play").addEventListener("click", () => run(!timer));
  byId("seek").addEventListener("input", () => {
    at = Number(byId("seek").value);
    player.seek(at);
    show();
  });
  for (const control of [byId("play"), byId("seek")]) control.disabled = false;
  byId("notice").hidden = true;
  player.seek(0);
  show();
  run(true);
}

try {
  const player = await load();
  if (player?.length) begin(player);
  else byId("notice-text").textContent = player ? words.empty : words.failed;
} catch (error) {
  byId("notice-text").textContent = words.failed;
  throw error;
}
