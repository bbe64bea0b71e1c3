// Which key of a US keyboard gives a character: keysym, DOM code, and whether Shift is held.
const PLAIN = {
  "`": "Backquote", "-": "Minus", "=": "Equal", "[": "BracketLeft", "]": "BracketRight",
  "\\": "Backslash", ";": "Semicolon", "'": "Quote", ",": "Comma", ".": "Period", "/": "Slash",
  " ": "Space",
};
const SHIFTED = {
  "~": "Backquote", "_": "Minus", "+": "Equal", "{": "BracketLeft", "}": "BracketRight",
  "|": "Backslash", ":": "Semicolon", '"': "Quote", "<": "Comma", ">": "Period", "?": "Slash",
  "!": "Digit1", "@": "Digit2", "#": "Digit3", $: "Digit4", "%": "Digit5", "^": "Digit6",
  "&": "Digit7", "*": "Digit8", "(": "Digit9", ")": "Digit0",
};

export function keyOf(character) {
  if (character === "\n") return { keysym: 0xff0d, code: "Enter", shift: false };
  if (character === "\t") return { keysym: 0xff09, code: "Tab", shift: false };
  const keysym = character.codePointAt(0);
  if (/[a-z]/.test(character)) return { keysym, code: `Key${character.toUpperCase()}`, shift: false };
  if (/[A-Z]/.test(character)) return { keysym, code: `Key${character}`, shift: true };
  if (/[0-9]/.test(character)) return { keysym, code: `Digit${character}`, shift: false };
  if (PLAIN[character]) return { keysym, code: PLAIN[character], shift: false };
  if (SHIFTED[character]) return { keysym, code: SHIFTED[character], shift: true };
  return null;
}

// Each different character of a text, once.
export function characters(text) {
  return [...new Set(text)];
}
