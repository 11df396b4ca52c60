//! The harness is built for wasm beforehand (`scripts/build-guests`) and embedded. A missing part is said plainly here,
//! because the compiler's own message would not say what to do.

use std::path::Path;

const PARTS: [&str; 10] = [
    "intake",
    "drive-map",
    "drive-filter",
    "drive-flat-map",
    "drive-branch",
    "drive-delay",
    "drive-accumulate",
    "outlet",
    "deny",
    "deny-clocks",
];

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let folder = Path::new(&root).join("../../build/guests");
    for part in PARTS {
        let file = folder.join(part).with_extension("wasm");
        println!("cargo::rerun-if-changed={}", file.display());
        if !file.exists() {
            println!(
                "cargo::error=the harness is not built: {} is missing; run `make guests`",
                file.display()
            );
        }
    }
    println!("cargo::rustc-env=MILLRACE_GUESTS={}", folder.display());
}
