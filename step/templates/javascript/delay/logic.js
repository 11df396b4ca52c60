import { decode } from './text.js';

/** The event time is the one that the message begins with, in milliseconds since 1970, before a comma. */
export function time(payload) {
  const text = decode(payload);
  // Up to the year 2286. A number has a time in nanoseconds to the nearest 256 of them.
  const [, milliseconds] = /^\s*(\d{1,13}),/.exec(text) ?? [];
  if (milliseconds === undefined) throw new Error(`no time in milliseconds before a comma: ${text}`);
  return Number(milliseconds) * 1e6;
}
