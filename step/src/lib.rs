//! A customer's step: made, built, looked at and tried.
//!
//! The layers, each a module:
//!
//! 1. `inspect`: what a component is, and whether composition would take it
//! 2. `sample`: messages to try a step with, out of a file
//! 3. `trial`: a step as the only one of its stage, at the desk
//! 4. `windows`: the same of a step with state
//! 5. `arbitrary`: any bytes into a step, and the smallest message that traps it
//! 6. `project`: the folder of a step, and the file that says what it is
//! 7. `template`: a new folder
//! 8. `tool`, `build`: the component of a folder, made with its language's tool

mod arbitrary;
mod build;
mod inspect;
mod project;
mod sample;
mod template;
mod tool;
mod trial;
mod windows;

pub use arbitrary::{Case, Ended, Findings, arbitrary};
pub use build::{BuildError, Built, build};
pub use inspect::{Fate, Import, Inspection, inspect};
pub use project::{Language, Project, ProjectError, STEP_FILE, check_name};
pub use sample::{SampleError, parse as parse_samples, read as read_samples};
pub use template::{CreateError, KINDS, WIT, create, files};
pub use tool::{COMPONENTIZE_PY, COMPONENTIZE_QJS, ToolError, Tools};
pub use trial::{Letter, Settings, Trial, TrialError, Tried};
pub use windows::{Kept, Windowed};
