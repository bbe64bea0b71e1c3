// A text as the keys of a guest's keyboard: which key, with Shift or AltGr, after which dead key.
// No DOM in here: tests run it in Node.
import { LAYOUTS } from "./layouts.js";

const SHIFT = { code: "ShiftLeft", keysym: 0xffe1 };
const ALTGR = { code: "AltRight", keysym: 0xfe03 };
// Combining character and keysym of each dead key that makes letters of the layouts' languages.
const DEAD = {
  dead_grave: ["\u0300", 0xfe50],
  dead_acute: ["\u0301", 0xfe51],
  dead_circumflex: ["\u0302", 0xfe52],
  dead_tilde: ["\u0303", 0xfe53],
  dead_diaeresis: ["\u0308", 0xfe57],
  dead_abovering: ["\u030a", 0xfe58],
  dead_caron: ["\u030c", 0xfe5a],
  dead_cedilla: ["\u0327", 0xfe5b],
};
// With the space bar after it. Of the others systems do not agree what that gives.
const DEAD_ALONE = { dead_grave: "`", dead_circumflex: "^", dead_tilde: "~" };

// X11's: Latin-1 as it is, all else by its code point.
function keysymOfCharacter(character) {
  const point = character.codePointAt(0);
  return point < 0x100 ? point : 0x01000000 + point;
}

function stroke(code, level, keysym) {
  return { code, keysym, shift: level % 2 === 1, altgr: level >= 2 };
}

const made = new Map();

// Map from each character that the layout can type to its one or two keystrokes.
export function strokesOf(name) {
  if (!made.has(name)) made.set(name, build(LAYOUTS[name]));
  return made.get(name);
}

function build(keys) {
  const found = new Map([
    ["\n", [{ code: "Enter", keysym: 0xff0d, shift: false, altgr: false }]],
    ["\t", [{ code: "Tab", keysym: 0xff09, shift: false, altgr: false }]],
  ]);
  const dead = new Map();
  for (let level = 0; level < 4; level += 1) {
    for (const [code, given] of Object.entries(keys)) {
      const what = given[level];
      if (!what) continue;
      if (DEAD[what]) {
        if (!dead.has(what)) dead.set(what, stroke(code, level, DEAD[what][1]));
      } else if (!what.startsWith("dead_") && !found.has(what)) {
        found.set(what, [stroke(code, level, keysymOfCharacter(what))]);
      }
    }
  }
  const direct = [...found];
  for (const [name, first] of dead) {
    const alone = DEAD_ALONE[name];
    if (alone && !found.has(alone)) found.set(alone, [first, ...found.get(" ")]);
    for (const [base, strokes] of direct) {
      if (!/^[A-Za-z]$/.test(base)) continue;
      const whole = (base + DEAD[name][0]).normalize("NFC");
      if ([...whole].length === 1 && !found.has(whole)) found.set(whole, [first, ...strokes]);
    }
  }
  return found;
}

// One form of each character and of each line end.
export function plain(text) {
  return text.normalize("NFC").replace(/\r\n?/g, "\n").replace(/\u00a0/g, " ");
}

// [{ text, known }]: runs of characters that the layout has, or lacks.
export function runs(text, layout) {
  const strokes = strokesOf(layout);
  const found = [];
  for (const character of plain(text)) {
    const known = strokes.has(character);
    const last = found.at(-1);
    if (last && last.known === known) last.text += character;
    else found.push({ text: character, known });
  }
  return found;
}

// Each different character that the layout lacks, in the order of the text.
export function lacking(text, layout) {
  const strokes = strokesOf(layout);
  return [...new Set(plain(text))].filter((character) => !strokes.has(character));
}

// The key events of one character: [{ code, keysym, down }]. What is held is let go again.
export function eventsOf(character, layout) {
  const events = [];
  for (const { code, keysym, shift, altgr } of strokesOf(layout).get(character) ?? []) {
    const held = [...(shift ? [SHIFT] : []), ...(altgr ? [ALTGR] : [])];
    for (const key of held) events.push({ ...key, down: true });
    events.push({ code, keysym, down: true }, { code, keysym, down: false });
    for (const key of held.reverse()) events.push({ ...key, down: false });
  }
  return events;
}
