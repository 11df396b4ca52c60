import { mean, number, read, write } from './logic.js';

export const accumulate = {
  init(configuration) {},

  accumulate(state, messages) {
    let kept;
    try {
      kept = read(state);
    } catch (error) {
      throw { tag: 'internal', val: error.message };
    }
    try {
      for (const message of messages) {
        kept = { count: kept.count + 1, sum: kept.sum + number(message.payload) };
      }
    } catch (error) {
      // Anything else that is thrown here ends the call as a trap.
      throw { tag: 'invalid-argument', val: error.message };
    }
    return write(kept);
  },

  finish(window, state) {
    try {
      const { topic, key } = window;
      // The timestamp 0 becomes the window's end.
      return [{ timestamp: 0, topic, key, contentType: null, headers: [], payload: mean(read(state)) }];
    } catch (error) {
      throw { tag: 'internal', val: error.message };
    }
  },
};
