import { upper } from './logic.js';

export const map = {
  init(configuration) {},

  map(message) {
    try {
      return { ...message, payload: upper(message.payload) };
    } catch (error) {
      // Anything else that is thrown here ends the call as a trap.
      throw { tag: 'invalid-argument', val: error.message };
    }
  },
};
