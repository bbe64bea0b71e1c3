// Run by tests/front/test_type_a_text.py (or: node --test in a folder with these files).
import assert from "node:assert/strict";
import { test } from "node:test";
import { LAYOUTS } from "./layouts.js";
import { eventsOf, lacking, plain, runs, strokesOf } from "./typing.js";

const ASCII = Array.from({ length: 95 }, (_, at) => String.fromCharCode(32 + at));

// What the events press, as "AltGr+KeyQ"; checks on the way that whatever goes down comes up.
function pressed(character, layout) {
  const held = [];
  const names = [];
  for (const { code, keysym, down } of eventsOf(character, layout)) {
    assert.ok(Number.isInteger(keysym) && keysym > 0);
    if (!down) {
      assert.equal(held.pop(), code, "keys come up in turn");
      continue;
    }
    held.push(code);
    if (!["ShiftLeft", "AltRight"].includes(code))
      names.push(held.map((one) => ({ ShiftLeft: "Shift", AltRight: "AltGr" })[one] ?? one).join("+"));
  }
  assert.deepEqual(held, []);
  return names.join(" ");
}

for (const layout of Object.keys(LAYOUTS))
  test(`${layout} types every ASCII character`, () => {
    assert.deepEqual(lacking(ASCII.join("") + "\n\t", layout), []);
    for (const character of ASCII) pressed(character, layout);
  });

const TABLE = [
  ["us", "a", "KeyA"], ["us", "A", "Shift+KeyA"], ["us", "@", "Shift+Digit2"], ["us", "<", "Shift+Comma"],
  ["us", "\n", "Enter"], ["us", "\\", "Backslash"],
  ["gb", "@", "Shift+Quote"], ["gb", "\"", "Shift+Digit2"], ["gb", "£", "Shift+Digit3"], ["gb", "#", "Backslash"],
  ["gb", "\\", "IntlBackslash"], ["gb", "€", "AltGr+Digit4"], ["gb", "~", "Shift+Backslash"],
  ["de", "z", "KeyY"], ["de", "y", "KeyZ"], ["de", "@", "AltGr+KeyQ"], ["de", "{", "AltGr+Digit7"],
  ["de", "\\", "AltGr+Minus"], ["de", "|", "AltGr+IntlBackslash"], ["de", "ß", "Minus"], ["de", "€", "AltGr+KeyE"],
  ["de", "^", "Backquote Space"], ["de", "`", "Shift+Equal Space"], ["de", "é", "Equal KeyE"],
  ["de", "~", "AltGr+BracketRight"], ["de", "/", "Shift+Digit7"], ["de", "-", "Slash"], ["de", "É", "Equal Shift+KeyE"],
  ["fr", "a", "KeyQ"], ["fr", "q", "KeyA"], ["fr", "m", "Semicolon"], ["fr", "1", "Shift+Digit1"],
  ["fr", "é", "Digit2"], ["fr", "@", "AltGr+Digit0"], ["fr", "#", "AltGr+Digit3"], ["fr", "[", "AltGr+Digit5"],
  ["fr", "ê", "BracketLeft KeyE"], ["fr", "ï", "Shift+BracketLeft KeyI"], ["fr", ".", "Shift+Comma"],
  ["es", "ñ", "Semicolon"], ["es", "@", "AltGr+Digit2"], ["es", "á", "Quote KeyA"], ["es", "/", "Shift+Digit7"],
  ["es", "¿", "Shift+Equal"], ["es", "{", "AltGr+Quote"], ["es", "`", "BracketLeft Space"], ["es", "ü", "Shift+Quote KeyU"],
  ["jp", "@", "BracketLeft"], ["jp", "_", "Shift+IntlRo"], ["jp", ":", "Quote"], ["jp", "\"", "Shift+Digit2"],
  ["jp", "|", "Shift+IntlYen"], ["jp", "^", "Equal"], ["jp", "(", "Shift+Digit8"],
  ["cn", "a", "KeyA"], ["cn", "@", "Shift+Digit2"],
];

for (const [layout, character, keys] of TABLE)
  test(`${layout}: ${JSON.stringify(character)} is ${keys}`, () => assert.equal(pressed(character, layout), keys));

test("what a layout lacks is named once, in the order of the text", () => {
  assert.deepEqual(lacking("für 3 €, für 你好", "us"), ["ü", "€", "你", "好"]);
  assert.deepEqual(lacking("für 3 €, für 你好", "de"), ["你", "好"]);
});

test("a preview has the whole text, in runs", () => {
  assert.deepEqual(runs("a€b", "us"), [
    { text: "a", known: true }, { text: "€", known: false }, { text: "b", known: true },
  ]);
});

test("line ends, composed letters and hard spaces are made plain", () => {
  assert.equal(plain("a\r\nb\rc\u00a0e\u0301"), "a\nb\nc é");
});

test("what a layout lacks presses nothing", () => assert.deepEqual(eventsOf("你", "de"), []));

test("keysyms are X11's: Latin-1 as it is, others by their code point, dead keys their own", () => {
  assert.equal(strokesOf("de").get("ß")[0].keysym, 0xdf);
  assert.equal(strokesOf("de").get("€")[0].keysym, 0x010020ac);
  assert.equal(strokesOf("de").get("^")[0].keysym, 0xfe52);
});
