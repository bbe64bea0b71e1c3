// The VNC side: noVNC on a WebSocket, with the person's choices.
import RFB from "../../vendor/novnc-1.7.0/core/rfb.js";
import { pressTogether } from "./keys.js";

const FOLLOWS_MS = 2500; // a guest that can follow the window has done so by then

export class Screen {
  // hooks: connected(), clipboard(text), leave(), unwilling(mode)
  constructor(element, settings, hooks) {
    this.element = element;
    this.settings = settings;
    this.hooks = hooks;
    this.rfb = null;
    this.mode = "view";
    this.sizeTimer = 0;
    // Before noVNC's own listener: a way out of the screen without a mouse.
    element.addEventListener(
      "keydown",
      (event) => {
        if (event.key !== "F12" || !event.shiftKey) return;
        event.preventDefault();
        event.stopPropagation();
        hooks.leave();
      },
      true,
    );
  }

  get open() {
    return this.rfb !== null;
  }

  attach(socket, given) {
    this.mode = given.mode;
    this.rfb = new RFB(this.element, socket, { shared: true });
    this.rfb.viewOnly = given.mode !== "control";
    this.rfb.background = "transparent";
    this.apply();
    const canvas = this.element.querySelector("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", this.settings.label);
    // noVNC lets go of what is held when the window loses the focus: here, when the screen does.
    canvas.addEventListener("blur", () => window.dispatchEvent(new Event("blur")));
    this.rfb.addEventListener("connect", () => {
      this.hooks.connected();
      if (this.mode === "control") this.watchSize();
    });
    this.rfb.addEventListener("clipboard", (event) => this.hooks.clipboard(event.detail.text));
  }

  ended() {
    this.rfb = null;
  }

  close() {
    this.rfb?.disconnect();
  }

  focus() {
    this.rfb?.focus();
  }

  apply() {
    const { size, pointer, quality, compression } = this.settings;
    this.element.classList.toggle("crosshair", pointer === "cross");
    if (!this.rfb) return;
    this.rfb.scaleViewport = size !== "real";
    this.rfb.clipViewport = size === "real";
    this.rfb.dragViewport = size === "real" && this.mode !== "control";
    this.rfb.resizeSession = size === "guest";
    this.rfb.showDotCursor = pointer !== "guest";
    this.rfb.qualityLevel = Number(quality);
    this.rfb.compressionLevel = Number(compression);
  }

  // Where the guest should follow the window: say it when it does not. Only who has control can
  // ask it to; a server that has taken the wish (QEMU always does) does not tell what came of it.
  watchSize() {
    clearTimeout(this.sizeTimer);
    if (!this.rfb || this.settings.size !== "guest") return;
    if (this.mode !== "control") {
      this.hooks.unwilling(this.mode);
      return;
    }
    this.sizeTimer = setTimeout(() => {
      if (this.rfb && this.settings.size === "guest" && !this.follows()) this.hooks.unwilling(this.mode);
    }, FOLLOWS_MS);
  }

  follows() {
    const canvas = this.element.querySelector("canvas");
    const near = (one, other) => Math.abs(one - other) < 16; // drivers round
    return near(canvas.width, this.element.clientWidth) && near(canvas.height, this.element.clientHeight);
  }

  send(keysym, code, down) {
    if (this.mode === "control") this.rfb?.sendKey(keysym, code, down);
  }

  press(codes) {
    pressTogether((keysym, code, down) => this.send(keysym, code, down), codes);
  }

  toClipboard(text) {
    if (this.mode === "control") this.rfb?.clipboardPasteFrom(text);
  }

  picture() {
    return new Promise((done) => {
      if (this.rfb) this.rfb.toBlob(done, "image/png");
      else done(null);
    });
  }
}
