// What the page stores of texts and of the surprisals of their units. A unit is a word, or what follows the
// last word of a document: its trailing white space and its end. Units are numbered over all documents.

const WORD = /[^ \t\n\r\0]+/g; // as in lm_jax/text/words.py
const MOST_WORDS = 200; // of a piece, which becomes elements at once
const MINUS = "−";

const decode = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

const byteLength = (text, start, end) => {
  let length = 0;
  for (let i = start; i < end; i++) {
    const code = text.charCodeAt(i);
    length += code < 0x80 ? 1 : code < 0x800 || (code >= 0xd800 && code < 0xe000) ? 2 : 3; // a half: 2 of 4
  }
  return length;
};

const number = (value, digits = 2) => {
  if (value === null) return "–";
  if (!Number.isFinite(value)) return value < 0 ? `${MINUS}∞` : "∞";
  return value.toFixed(digits).replace("-", MINUS);
};
const signed = (value, digits = 2) => (value > 0 ? "+" : "") + number(value, digits);

// The units of a document: where each begins and ends in characters, its first byte, and its bytes with the
// white space before it.
const unitsOf = (text, whole) => {
  const units = [];
  let place = 0, bytes = 0;
  const add = (start, end) => {
    const space = byteLength(text, place, start);
    const length = byteLength(text, start, end);
    units.push({ start, end, first: bytes + space, bytes: space + length });
    bytes += space + length;
    place = end;
  };
  for (const found of text.matchAll(WORD)) add(found.index, found.index + found[0].length);
  if (whole) add(text.length, text.length);
  return units;
};

// The end of the piece that begins with a unit: after a line, if one ends soon.
const pieceEnd = (text, units, first) => {
  const most = Math.min(first + MOST_WORDS, units.length);
  for (let next = first + MOST_WORDS / 2; next < most; next++) {
    if (text.slice(units[next - 1].end, units[next].start).includes("\n")) return next;
  }
  return most;
};

class Model {
  constructor(stored, bits, steps) {
    Object.assign(this, { name: stored.name, place: stored.place, mark: stored.mark });
    const bytes = decode(stored.surprisals);
    this.tokens = decode(stored.tokens);
    this.bits = Float64Array.from(this.tokens, (_, unit) => {
      const code = bytes[2 * unit] | (bytes[2 * unit + 1] << 8);
      return code === 65535 ? Infinity : bits * Math.expm1(code / steps);
    });
  }
  value(unit) { return this.count(unit) ? this.bits[unit] : null; } // without a token: no value of its own
  count(unit) { return this.tokens[unit] & 127; }
  isUnknown(unit) { return this.tokens[unit] >= 128; }
}
