//! `millrace completion`.

use clap::CommandFactory as _;

pub(crate) fn print(shell: clap_complete::Shell) {
    let mut command = crate::Cli::command();
    clap_complete::generate(shell, &mut command, "millrace", &mut std::io::stdout());
}
