//! The command as a user calls it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs `millrace` in a folder.
pub fn millrace(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// What it wrote.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// An example component.
pub fn example(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/components");
    let file = std::path::absolute(root.join(name).with_extension("wasm")).unwrap();
    assert!(file.is_file(), "{}: run `make guests`", file.display());
    file
}
