import assert from 'node:assert/strict';
import { test } from 'node:test';

import { lines } from './logic.js';
import { decode, encode } from './text.js';

test('empty lines are left out', () => {
  assert.deepEqual(lines(encode('a\n\n b \n')).map(decode), ['a', 'b']);
  assert.deepEqual(lines([]), []);
});

test('what is no text', () => {
  assert.throws(() => lines([0xff]), /not text/);
});
