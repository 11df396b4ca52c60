//! The time: the host's where clocks are granted, denied where not.

use crate::bindings::exports::wasi::clocks::{monotonic_clock, wall_clock};
use crate::bindings::exports::wasi::io::poll::Pollable;
#[cfg(feature = "clocks")]
use crate::bindings::millrace::deny::{host_monotonic_clock, host_wall_clock};
#[cfg(not(feature = "clocks"))]
use crate::deny;
use crate::Deny;
use wall_clock::Datetime;

#[cfg(not(feature = "clocks"))]
impl monotonic_clock::Guest for Deny {
    fn now() -> u64 {
        deny()
    }

    fn resolution() -> u64 {
        deny()
    }

    fn subscribe_instant(_: u64) -> Pollable {
        deny()
    }

    fn subscribe_duration(_: u64) -> Pollable {
        deny()
    }
}

#[cfg(not(feature = "clocks"))]
impl wall_clock::Guest for Deny {
    fn now() -> Datetime {
        deny()
    }

    fn resolution() -> Datetime {
        deny()
    }
}

#[cfg(feature = "clocks")]
impl monotonic_clock::Guest for Deny {
    fn now() -> u64 {
        host_monotonic_clock::now()
    }

    fn resolution() -> u64 {
        host_monotonic_clock::resolution()
    }

    fn subscribe_instant(_: u64) -> Pollable {
        crate::deny()
    }

    fn subscribe_duration(_: u64) -> Pollable {
        crate::deny()
    }
}

#[cfg(feature = "clocks")]
impl wall_clock::Guest for Deny {
    fn now() -> Datetime {
        datetime(host_wall_clock::now())
    }

    fn resolution() -> Datetime {
        datetime(host_wall_clock::resolution())
    }
}

#[cfg(feature = "clocks")]
fn datetime(time: host_wall_clock::Datetime) -> Datetime {
    Datetime { seconds: time.seconds, nanoseconds: time.nanoseconds }
}
