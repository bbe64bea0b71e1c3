// The serial side: xterm.js on a WebSocket. Binary frames are the line's bytes, text frames are JSON
// (docs/contributor/contracts.md).
import "./inline-styles.js";
import { FitAddon } from "../../vendor/xterm-addon-fit-0.11.0/addon-fit.mjs";
import { SearchAddon } from "../../vendor/xterm-addon-search-0.16.0/addon-search.mjs";
import { WebLinksAddon } from "../../vendor/xterm-addon-web-links-0.12.0/addon-web-links.mjs";
import { Terminal } from "../../vendor/xterm-6.0.0/lib/xterm.mjs";

const SCROLLBACK = 10_000; // lines
const ACK_BYTES = 65_536;
const ACK_MS = 100;
const PIECE = 512; // bytes of a pasted text at once: a guest's line buffer is small
const PIECE_MS = 25;
// What an escape sequence of the guest may not do to a browser: titles, links, clipboard, colours
// that answer, notifications, files.
const REFUSED_OSC = [0, 1, 2, 4, 7, 8, 9, 10, 11, 12, 50, 52, 99, 104, 110, 111, 112, 133, 777, 1337];
export const THEME = {
  background: "#16181d",
  foreground: "#dfe2e8",
  cursor: "#8ab4ff",
  selectionBackground: "#3a4d70",
};

// A terminal that a guest's bytes cannot use against the person in front of it.
export function makeTerminal(options = {}) {
  const terminal = new Terminal({
    allowProposedApi: true,
    fontFamily: getComputedStyle(document.documentElement).getPropertyValue("--font-code") || "monospace",
    fontSize: 14,
    scrollback: SCROLLBACK,
    theme: THEME,
    linkHandler: { activate: () => {} },
    ...options,
  });
  for (const code of REFUSED_OSC) terminal.parser.registerOscHandler(code, () => true);
  return terminal;
}

// All that the host keeps of a line, over a socket of its own. Rejects when not all of it came.
export function wholeLog(socket) {
  const pieces = [];
  let missing = NaN;
  socket.binaryType = "arraybuffer";
  return new Promise((resolve, reject) => {
    socket.addEventListener("message", ({ data }) => {
      if (typeof data === "string") {
        missing = JSON.parse(data).bytes;
        return;
      }
      missing -= data.byteLength;
      pieces.push(data);
    });
    socket.addEventListener("close", () => {
      if (missing === 0) resolve(new Blob(pieces, { type: "application/octet-stream" }));
      else reject(new Error("the log did not come to its end"));
    });
  });
}

export class Serial {
  // hooks: connected(), mode(word), leave(), escape(), link(address), skipped(bytes), ended(reason),
  // resized(cols, rows), search(), copied(), dropped(bytes),
  // line(why it is waited for: host, moving, in_use; "": it is open)
  constructor(element, settings, hooks) {
    this.hooks = hooks;
    this.settings = settings;
    this.socket = null;
    this.mode = "view";
    this.old = false; // what is written now was said before: nothing in it is answered
    this.unacknowledged = 0;
    this.ackTimer = 0;
    this.terminal = makeTerminal({ fontSize: settings.font, screenReaderMode: settings.aloud });
    this.fit = new FitAddon();
    this.search = new SearchAddon();
    this.terminal.loadAddon(this.fit);
    this.terminal.loadAddon(this.search);
    this.terminal.loadAddon(new WebLinksAddon((_event, address) => hooks.link(address)));
    this.terminal.open(element);
    this.terminal.attachCustomKeyEventHandler((event) => this.keyPassed(event));
    this.terminal.onData((text) => this.input(new TextEncoder().encode(text)));
    this.terminal.onBinary((text) => this.input(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    this.terminal.onResize(({ cols, rows }) => this.tellSize(cols, rows));
    new ResizeObserver(() => this.refit()).observe(element);
    this.refit();
  }

  get open() {
    return this.socket !== null;
  }

  keyPassed(event) {
    if (event.type !== "keydown") return true;
    const own = this.ownKey(event);
    if (own) {
      event.preventDefault();
      event.stopPropagation();
      own();
    }
    return !own;
  }

  ownKey(event) {
    if (event.key === "F12" && event.shiftKey) return this.hooks.leave;
    if (event.ctrlKey && event.key === "]")
      return this.hooks.escape;
    if (!event.ctrlKey || !event.shiftKey) return null;
    if (event.code === "KeyF") return this.hooks.search;
    if (event.code === "KeyC") return () => this.hooks.copied(this.terminal.getSelection());
    return null;
  }

  attach(socket, given) {
    this.socket = socket;
    this.unacknowledged = 0;
    this.old = true;
    this.terminal.reset();
    this.setMode(given.mode);
    socket.addEventListener("open", () => {
      this.hooks.connected();
      this.tellSize(this.terminal.cols, this.terminal.rows);
    });
    socket.addEventListener("message", (event) => this.heard(socket, event.data));
  }

  heard(socket, data) {
    if (typeof data !== "string") {
      const bytes = new Uint8Array(data);
      this.terminal.write(bytes, () => this.acknowledge(socket, bytes.length));
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "hello" || message.type === "mode") this.setMode(message.mode);
    if (message.type === "mode") this.hooks.mode(message.mode);
    else if (message.type === "live") this.terminal.write("", () => (this.old = false));
    else if (message.type === "skipped") this.hooks.skipped(message.bytes);
    else if (message.type === "dropped") this.hooks.dropped(message.bytes);
    else if (message.type === "line") this.hooks.line(message.state === "open" ? "" : message.why);
    else if (message.type === "end") this.hooks.ended(message.reason);
  }

  acknowledge(socket, bytes) {
    this.unacknowledged += bytes;
    if (this.unacknowledged >= ACK_BYTES) this.sendAck(socket);
    else this.ackTimer ||= setTimeout(() => this.sendAck(socket), ACK_MS);
  }

  sendAck(socket) {
    clearTimeout(this.ackTimer);
    this.ackTimer = 0;
    if (!this.unacknowledged || socket !== this.socket) return;
    this.tell({ type: "ack", bytes: this.unacknowledged });
    this.unacknowledged = 0;
  }

  tell(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  tellSize(cols, rows) {
    this.tell({ type: "size", cols, rows });
    this.hooks.resized(cols, rows);
  }

  setMode(mode) {
    this.mode = mode;
    this.terminal.options.disableStdin = mode !== "control";
    this.terminal.options.cursorInactiveStyle = mode === "control" ? "outline" : "none";
  }

  input(bytes) {
    if (this.old || this.mode !== "control") return;
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(bytes);
  }

  // A text, piece by piece; told(share) hears how far it is. Resolves to whether all went out.
  async type(text, told, signal) {
    const bytes = new TextEncoder().encode(text.replace(/\r?\n/g, "\r"));
    for (let at = 0; at < bytes.length; at += PIECE) {
      if (signal.aborted || !this.socket || this.mode !== "control") return false;
      this.input(bytes.slice(at, at + PIECE));
      told(Math.min(1, (at + PIECE) / bytes.length));
      await new Promise((done) => setTimeout(done, PIECE_MS));
    }
    return true;
  }

  sendText(text) {
    this.input(new TextEncoder().encode(text));
  }

  refit() {
    if (this.terminal.element?.offsetParent) this.fit.fit();
  }

  apply() {
    this.terminal.options.fontSize = this.settings.font;
    this.terminal.options.screenReaderMode = this.settings.aloud;
    this.refit();
  }

  find(text, back) {
    const options = { caseSensitive: false };
    return back ? this.search.findPrevious(text, options) : this.search.findNext(text, options);
  }

  wholeText() {
    this.terminal.selectAll();
    const text = this.terminal.getSelection();
    this.terminal.clearSelection();
    return text.trimEnd();
  }

  clear() {
    this.terminal.clear();
  }

  ended() {
    this.socket = null;
    clearTimeout(this.ackTimer);
    this.ackTimer = 0;
  }

  close() {
    this.socket?.close(1000);
  }

  focus() {
    this.terminal.focus();
  }
}
