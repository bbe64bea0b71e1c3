// X11 keysyms of the keys that have no character, by the DOM's names, and the pressing of chords.
const FIXED = {
  Escape: 0xff1b, Tab: 0xff09, Enter: 0xff0d, Backspace: 0xff08, Delete: 0xffff, Insert: 0xff63,
  Home: 0xff50, End: 0xff57, PageUp: 0xff55, PageDown: 0xff56,
  ArrowLeft: 0xff51, ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54,
  ShiftLeft: 0xffe1, ControlLeft: 0xffe3, AltLeft: 0xffe9, AltRight: 0xfe03, MetaLeft: 0xffeb,
  ContextMenu: 0xff67, PrintScreen: 0xff61,
};

// Keysym of a key by its code ("F2", "KeyA", "Escape"); 0: none is known.
export function keysymOf(code) {
  if (code in FIXED) return FIXED[code];
  const number = /^F(\d{1,2})$/.exec(code);
  if (number) return 0xffbe + Number(number[1]) - 1;
  const letter = /^Key([A-Z])$/.exec(code);
  return letter ? letter[1].toLowerCase().charCodeAt(0) : 0;
}

// Press keys together ("ControlLeft AltLeft Delete") and let them go in turn.
export function pressTogether(send, codes) {
  for (const code of codes) send(keysymOf(code), code, true);
  for (const code of [...codes].reverse()) send(keysymOf(code), code, false);
}

// What a terminal sends for such a key (xterm's sequences in normal cursor mode).
const SEQUENCES = {
  Escape: "\x1b", Tab: "\t", Enter: "\r", Backspace: "\x7f", Delete: "\x1b[3~",
  Home: "\x1b[H", End: "\x1b[F", PageUp: "\x1b[5~", PageDown: "\x1b[6~",
  ArrowUp: "\x1b[A", ArrowDown: "\x1b[B", ArrowRight: "\x1b[C", ArrowLeft: "\x1b[D",
};

export function sequenceOf(code) {
  return SEQUENCES[code] ?? "";
}
