//! No randomness but the seed that hash tables start from, which is the same each time. A step that needs randomness is
//! granted `random`, and then these functions are not the ones it calls.

use crate::bindings::exports::wasi::random::{insecure, insecure_seed, random};
use crate::{deny, Deny};

impl random::Guest for Deny {
    fn get_random_bytes(_: u64) -> Vec<u8> {
        deny()
    }

    fn get_random_u64() -> u64 {
        deny()
    }
}

impl insecure::Guest for Deny {
    fn get_insecure_random_bytes(_: u64) -> Vec<u8> {
        deny()
    }

    fn get_insecure_random_u64() -> u64 {
        deny()
    }
}

impl insecure_seed::Guest for Deny {
    fn insecure_seed() -> (u64, u64) {
        (0x6d69_6c6c_7261_6365, 0x7374_6570_7374_6570)
    }
}
