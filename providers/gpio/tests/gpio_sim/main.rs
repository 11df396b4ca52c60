//! GPIO source and sink against the kernel's own simulator, gpio-sim.
//!
//! They need root and a kernel with gpio-sim, and are run in a virtual machine
//! that has one: `scripts/gpio-vm test`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod conformance;
mod faults;
mod near;
mod safe;
mod sim;
mod sink;
mod source;
mod trial;
