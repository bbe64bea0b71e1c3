// The two formats of recordings, read without a DOM: asciicast v2 and FBS 001.000.

// { width, height, events: [[milliseconds, kind, text]] }; a last line that is half written is left out.
export function readCast(text) {
  const lines = text.split("\n").filter(Boolean);
  const head = JSON.parse(lines[0]);
  const events = [];
  for (const line of lines.slice(1)) {
    let event;
    try {
      event = JSON.parse(line);
    } catch {
      break;
    }
    events.push([event[0] * 1000, event[1], event[2]]);
  }
  return { width: head.width, height: head.height, events };
}

const MAGIC = "FBS 001.000\n";

// [{ at: milliseconds, offset, data: Uint8Array }]: pieces of what a server sent.
export function readFbs(buffer) {
  const bytes = new Uint8Array(buffer);
  if (String.fromCharCode(...bytes.subarray(0, MAGIC.length)) !== MAGIC) throw new Error("no FBS");
  const view = new DataView(buffer);
  const pieces = [];
  let offset = MAGIC.length;
  while (offset + 8 <= bytes.length) {
    const length = view.getUint32(offset);
    const end = offset + 4 + length + ((4 - (length % 4)) % 4);
    if (end + 4 > bytes.length) break;
    pieces.push({ at: view.getUint32(end), offset, data: bytes.subarray(offset + 4, offset + 4 + length) });
    offset = end + 4;
  }
  return pieces;
}

// Number of the piece to begin with for a time, and the size of the screen there.
export function enter(pieces, entries, milliseconds) {
  let best = { piece: 0, width: 0, height: 0 };
  for (const [at, offset, width, height] of entries) {
    if (at > milliseconds) break;
    const piece = pieces.findIndex((one) => one.offset === offset);
    if (piece >= 0) best = { piece, width, height };
  }
  return best;
}
