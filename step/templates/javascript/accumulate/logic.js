import { decode, encode } from './text.js';

/**
 * What is kept of a window. The platform keeps these 16 bytes, and there are none at its first message; a new version of
 * the step is given those of the one before.
 */
export function read(state) {
  if (state == null) return { count: 0, sum: 0 };
  if (state.length !== 16) throw new Error(`a state has 16 bytes, and this one ${state.length}`);
  const view = new DataView(Uint8Array.from(state).buffer);
  return { count: view.getFloat64(0, true), sum: view.getFloat64(8, true) };
}

/** The bytes of what is kept. */
export function write({ count, sum }) {
  const view = new DataView(new ArrayBuffer(16));
  view.setFloat64(0, count, true);
  view.setFloat64(8, sum, true);
  return new Uint8Array(view.buffer);
}

/** The mean as the payload of a message. */
export function mean({ count, sum }) {
  return encode(String(sum / count));
}

/** The number that a message is. */
export function number(payload) {
  const text = decode(payload).trim();
  const found = text === '' ? NaN : Number(text);
  if (Number.isNaN(found)) throw new Error(`not a number: ${text}`);
  return found;
}
