import assert from 'node:assert/strict';
import { test } from 'node:test';

import { mean, number, read, write } from './logic.js';
import { decode, encode } from './text.js';

test('a mean goes on from its state', () => {
  const { count, sum } = read(write({ count: 1, sum: 20 }));
  assert.equal(decode(mean({ count: count + 1, sum: sum + 22.5 })), '21.25');
  assert.deepEqual(read(null), { count: 0, sum: 0 });
});

test('what is no state and no number', () => {
  assert.throws(() => read([1, 2]), /16 bytes/);
  assert.throws(() => number(encode('fault')), /not a number/);
  assert.throws(() => number([0xff]), /not text/);
});
