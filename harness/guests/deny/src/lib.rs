//! Satisfies the WASI imports of a step that was granted nothing, inside the stage, so that none of them reaches the
//! host. What a language's runtime does at its start, or does as a matter of course, has a harmless answer: no
//! environment, no arguments, output thrown away, input at its end, a constant seed for hash tables, no directories.
//! Everything else traps: the step asked for something it does not have.
//!
//! With the feature `clocks` the time is the host's. Waiting traps in both builds: an instance lives for one call.
#![allow(unsafe_code, reason = "generated bindings")]

mod bindings {
    #[cfg(not(feature = "clocks"))]
    wit_bindgen::generate!({ path: "../wit", world: "deny", generate_all });
    #[cfg(feature = "clocks")]
    wit_bindgen::generate!({ path: "../wit", world: "deny-clocks", generate_all });
    use super::Deny;
    export!(Deny);
}

mod cli;
mod clocks;
mod filesystem;
mod io;
mod random;

/// Implements every interface.
struct Deny;

/// Ends the call: the step did what it was not granted.
fn deny() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort()
}
