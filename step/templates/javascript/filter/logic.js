import { decode } from './text.js';

/** The limit that the pipeline gives. */
export function read(configuration) {
  const limit = parseFloat(configuration.limit);
  if (Number.isNaN(limit)) throw new Error(`\`limit\` is not a number: ${configuration.limit}`);
  return limit;
}

/** The number that a message is. */
export function number(payload) {
  const text = decode(payload).trim();
  const found = text === '' ? NaN : Number(text);
  if (Number.isNaN(found)) throw new Error(`not a number: ${text}`);
  return found;
}
