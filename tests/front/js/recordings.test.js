// Run by tests/front/test_type_a_text.py beside the layouts.
import assert from "node:assert/strict";
import { test } from "node:test";
import { enter, readCast, readFbs } from "./recordings.js";

function fbs(...pieces) {
  const parts = [Buffer.from("FBS 001.000\n")];
  for (const [at, text] of pieces) {
    const head = Buffer.alloc(4);
    head.writeUInt32BE(text.length);
    const tail = Buffer.alloc(4);
    tail.writeUInt32BE(at);
    parts.push(head, Buffer.from(text), Buffer.alloc((4 - (text.length % 4)) % 4), tail);
  }
  const whole = Buffer.concat(parts);
  return whole.buffer.slice(whole.byteOffset, whole.byteOffset + whole.length);
}

test("a screen's pieces have their times, and where they begin in the file", () => {
  const pieces = readFbs(fbs([0, "hello"], [40, "four"], [10_000, "x"]));
  assert.deepEqual(pieces.map((one) => [one.at, one.offset, Buffer.from(one.data).toString()]), [
    [0, 12, "hello"], [40, 28, "four"], [10_000, 40, "x"],
  ]);
});

test("a piece that is half written ends it", () => {
  const whole = fbs([0, "hello"], [40, "four"]);
  assert.equal(readFbs(whole.slice(0, whole.byteLength - 1)).length, 1);
  assert.throws(() => readFbs(new ArrayBuffer(20)));
});

test("a time is entered at the last whole picture before it", () => {
  const pieces = readFbs(fbs([0, "hello"], [40, "four"], [10_000, "x"]));
  const entries = [[40, 28, 640, 400], [10_000, 40, 800, 600]];
  assert.deepEqual(enter(pieces, entries, 9_999), { piece: 1, width: 640, height: 400 });
  assert.deepEqual(enter(pieces, entries, 10_000), { piece: 2, width: 800, height: 600 });
  assert.equal(enter(pieces, [], 5).piece, 0);
});

test("a serial line's events are in milliseconds; a half line is left out", () => {
  const text = '{"version":2,"width":80,"height":24}\n[0.5,"o","a\\r\\n"]\n[1,"r","90x30"]\n[2,"o","x';
  assert.deepEqual(readCast(text), {
    width: 80, height: 24, events: [[500, "o", "a\r\n"], [1000, "r", "90x30"]],
  });
});
