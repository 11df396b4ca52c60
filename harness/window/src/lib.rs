//! Windows of a step with state.
//!
//! A step that accumulates has a state for each group of messages and each window. All of these of one partition are one
//! **state document**, which the caller of the stage keeps. A call brings it along, and the stage is a pure function: of
//! document and messages it makes output and the next document. So a call that was cut off is made again with the same
//! document, and gives the same.
//!
//! The layers, from the outside in:
//!
//! 1. `carry`: how the document travels with a batch, and back
//! 2. `engine`: what a batch makes of a document, whatever the step does
//! 3. `window`: which windows a time is in
//! 4. `document`: the bytes
//!
//! Beside them `time`: times for people.
//!
//! Everything here is plain computation: no clock, no files, the same on every machine.

pub mod carry;
mod document;
mod engine;
mod time;
mod window;

pub use carry::{
    attach, commit, detach, own_headers, write_commit, Call, Commit, IDLE, NOW, STATE,
};
pub use document::{
    repartition, Content, Document, DocumentError, Entries, Entry, Group, MAX_BYTES, VERSION,
};
pub use engine::{ApplyError, Ended, Engine, Failure, Late, Step, FULL};
pub use time::rfc3339;
pub use window::{Kind, Window, WindowError, MAX_OVERLAP};
