import assert from 'node:assert/strict';
import { test } from 'node:test';

import { time } from './logic.js';
import { encode } from './text.js';

test('times are read', () => {
  assert.equal(time(encode('1500,81.5')), 1500000000);
});

test('what is no time', () => {
  for (const payload of ['81.5', 'now,81.5', '-1,81.5', '18446744073709551615,81.5']) {
    assert.throws(() => time(encode(payload)), /no time/, payload);
  }
  assert.throws(() => time([0xff]), /not text/);
});
