import { number, read } from './logic.js';

let limit = 0;

export const branch = {
  init(configuration) {
    try {
      limit = read(Object.fromEntries(configuration));
    } catch (error) {
      throw { tag: 'invalid-argument', val: error.message };
    }
  },

  branch(message) {
    try {
      return number(message.payload) > limit ? 'high' : 'low';
    } catch (error) {
      // Anything else that is thrown here ends the call as a trap.
      throw { tag: 'invalid-argument', val: error.message };
    }
  },
};
