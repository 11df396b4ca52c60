// UTF-8 without TextDecoder and TextEncoder, which a component of QuickJS does not have.

/** The text of these bytes. Throws a RangeError where they are none. */
export function decode(bytes) {
  let text = '';
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at++];
    const more = first < 0x80 ? 0 : first < 0xc2 ? -1 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : -1;
    let code = more <= 0 ? first : first & (0x3f >> more);
    let good = more >= 0;
    for (let n = 0; n < more; n++) {
      const next = bytes[at++];
      good &&= (next & 0xc0) === 0x80;
      code = (code << 6) | (next & 0x3f);
    }
    // Neither longer than it had to be, nor half of a pair, nor beyond the last character.
    const least = [0, 0x80, 0x800, 0x10000][more];
    if (!good || code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
      throw new RangeError(`not text: wrong at byte ${at - 1}`);
    }
    text += String.fromCodePoint(code);
  }
  return text;
}

/** The bytes of a text. */
export function encode(text) {
  const bytes = [];
  for (const character of text) {
    const code = character.codePointAt(0);
    if (code < 0x80) bytes.push(code);
    else if (code < 0x800) bytes.push(0xc0 | (code >> 6), 0x80 | (code & 63));
    else if (code < 0x10000) bytes.push(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
    else bytes.push(0xf0 | (code >> 18), 0x80 | ((code >> 12) & 63), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
  }
  return Uint8Array.from(bytes);
}
