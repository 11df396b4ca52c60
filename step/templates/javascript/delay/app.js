import { time } from './logic.js';

export const delay = {
  init(configuration) {},

  delay(message) {
    try {
      return time(message.payload);
    } catch (error) {
      // Anything else that is thrown here ends the call as a trap.
      throw { tag: 'invalid-argument', val: error.message };
    }
  },
};
