//! A program without surroundings.

use crate::bindings::exports::wasi::cli::{
    environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr,
    terminal_stdin, terminal_stdout,
};
use crate::bindings::exports::wasi::io::streams::{InputStream, OutputStream};
use crate::io::{Closed, Discard};
use crate::{deny, Deny};

impl environment::Guest for Deny {
    fn get_environment() -> Vec<(String, String)> {
        Vec::new()
    }

    fn get_arguments() -> Vec<String> {
        Vec::new()
    }

    fn initial_cwd() -> Option<String> {
        None
    }
}

impl exit::Guest for Deny {
    /// A step that ends itself is like one that traps.
    fn exit(_: Result<(), ()>) {
        deny()
    }

    fn exit_with_code(_: u8) {
        deny()
    }
}

impl stdin::Guest for Deny {
    fn get_stdin() -> InputStream {
        InputStream::new(Closed)
    }
}

impl stdout::Guest for Deny {
    fn get_stdout() -> OutputStream {
        OutputStream::new(Discard)
    }
}

impl stderr::Guest for Deny {
    fn get_stderr() -> OutputStream {
        OutputStream::new(Discard)
    }
}

/// Never made: there is no terminal.
pub struct NoTerminal;

impl terminal_input::GuestTerminalInput for NoTerminal {}
impl terminal_output::GuestTerminalOutput for NoTerminal {}

impl terminal_input::Guest for Deny {
    type TerminalInput = NoTerminal;
}

impl terminal_output::Guest for Deny {
    type TerminalOutput = NoTerminal;
}

impl terminal_stdin::Guest for Deny {
    fn get_terminal_stdin() -> Option<terminal_stdin::TerminalInput> {
        None
    }
}

impl terminal_stdout::Guest for Deny {
    fn get_terminal_stdout() -> Option<terminal_stdout::TerminalOutput> {
        None
    }
}

impl terminal_stderr::Guest for Deny {
    fn get_terminal_stderr() -> Option<terminal_stderr::TerminalOutput> {
        None
    }
}
