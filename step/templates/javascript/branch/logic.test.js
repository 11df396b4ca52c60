import assert from 'node:assert/strict';
import { test } from 'node:test';

import { number, read } from './logic.js';
import { encode } from './text.js';

test('numbers are read', () => {
  assert.equal(number(encode(' 80.5 ')), 80.5);
  assert.equal(read({ limit: '80' }), 80);
});

test('what is no number', () => {
  assert.throws(() => number(encode('hot')), /not a number/);
  assert.throws(() => number([]), /not a number/);
  assert.throws(() => number([0xff]), /not text/);
  assert.throws(() => read({}), /not a number/);
});
