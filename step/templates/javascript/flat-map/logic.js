import { decode, encode } from './text.js';

/** The lines of a message that are not empty. */
export function lines(payload) {
  const found = decode(payload).split('\n').map((line) => line.trim());
  return found.filter((line) => line !== '').map(encode);
}
