import { lines } from './logic.js';

export const flatMap = {
  init(configuration) {},

  flatMap(message) {
    try {
      return lines(message.payload).map((payload) => ({ ...message, payload }));
    } catch (error) {
      // Anything else that is thrown here ends the call as a trap.
      throw { tag: 'invalid-argument', val: error.message };
    }
  },
};
