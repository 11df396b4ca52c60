import { decode, encode } from './text.js';

/** The text in capital letters. */
export function upper(payload) {
  return encode(decode(payload).toUpperCase());
}
