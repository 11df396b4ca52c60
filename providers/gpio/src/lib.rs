//! GPIO lines of the Linux character device (uAPI v2, Linux 5.10 and newer),
//! as source and as sink.
//!
//! **Source.** A message an edge, with the kernel's own timestamp. An edge
//! cannot be asked for again: what was taken from the kernel and is not yet
//! safe downstream is lost with the process. While the stage is away, messages
//! wait in a window of bounded size, then edges wait in the kernel's buffer,
//! which drops its oldest; the kernel numbers edges, so every lost one is
//! counted, and the message after a gap says how many are missing before it.
//!
//! **Sink.** A message a level, for one of the lines that the settings list.
//! It answers ok when the kernel has set every line of a batch. Each line has
//! a safe level, to which it is set when the sink is closed or dropped, when
//! nothing was written to it for longer than its watchdog allows, and when it
//! is found again after it was lost.
//!
//! **What the kernel promises, and what it does not.** A line stays as it was
//! set for as long as its request is open. When the process dies, killed or
//! not, the kernel closes the request, and then "the state of the line becomes
//! uncontrolled" (the kernel's documentation of `GPIO_V2_GET_LINE_IOCTL`): most
//! drivers leave it as it is, some set it back to an input. No software can set a line after its death; what must be safe then
//! is made safe by a resistor.
//!
//! **Duplicates** arise at the sink when a write fails half-way and is made
//! again: levels are set again in the same order.

mod chip;
mod clock;
mod command;
mod error;
#[cfg(fuzzing)]
pub mod fuzz;
mod loss;
mod outputs;
mod report;
mod sink;
mod source;

#[cfg(feature = "provider")]
mod connector;
#[cfg(feature = "provider")]
mod trial;

#[cfg(feature = "provider")]
pub use connector::Gpio;
pub use sink::GpioSink;
pub use source::GpioSource;
