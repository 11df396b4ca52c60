import assert from 'node:assert/strict';
import { test } from 'node:test';

import { upper } from './logic.js';
import { decode, encode } from './text.js';

test('text becomes capital letters', () => {
  assert.equal(decode(upper(encode('grün 😀'))), 'GRÜN 😀');
});

test('what is no text', () => {
  assert.throws(() => upper([0xff]), /not text/);
});
