//! Programs that tests call and wait for.

use std::path::PathBuf;

use crate::PeerError;
use crate::process::Program;

const SCHEMATHESIS: Program = Program {
    // A virtual environment in the folder of tools.
    name: "schemathesis/bin/schemathesis",
    variable: "MILLRACE_SCHEMATHESIS",
    install: "scripts/setup schemathesis",
};

const WASH: Program =
    Program { name: "wash/bin/wash", variable: "MILLRACE_WASH", install: "scripts/setup wash" };

/// schemathesis, which makes calls of an HTTP interface out of its description: <https://schemathesis.readthedocs.io>.
///
/// # Errors
///
/// When it is not there, with the command that installs it.
pub fn schemathesis() -> Result<PathBuf, PeerError> {
    SCHEMATHESIS.find()
}

/// wash, the command line of wasmCloud: <https://wasmcloud.com/docs/cli>.
///
/// # Errors
///
/// When it is not there, with the command that installs it.
pub fn wash() -> Result<PathBuf, PeerError> {
    WASH.find()
}
