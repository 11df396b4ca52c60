//! A small disk of our own for JetStream, which can be filled.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::sandbox::{self, run};

/// Room on it: an edge and the bookkeeping of the lattice take a fraction.
const SIZE: &str = "512m";

/// A file system in memory.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mounts one at the folder, which is made.
    pub(crate) fn mount(folder: &Path) -> anyhow::Result<Self> {
        ensure!(sandbox::is_entered(), "this process has no mounts of its own");
        std::fs::create_dir_all(folder)?;
        let size = format!("size={SIZE},mode=700");
        let place = folder.to_string_lossy();
        run("mount", ["-t", "tmpfs", "-o", &size, "millrace-chaos", &place])?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes all the room there is. What becomes free afterwards can be taken by calling again.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.ballast())?;
        // The last bytes in small pieces.
        for size in [1 << 20, 1 << 12] {
            let piece = vec![0; size];
            loop {
                match ballast.write(&piece) {
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::StorageFull => break,
                    Err(e) => return Err(e).context("could not fill the disk"),
                }
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub(crate) fn empty(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.ballast()).context("could not empty the disk")
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Without it the folder could not be removed. The mount itself would vanish with this process.
        if let Err(error) = run("umount", [self.folder.as_os_str()]) {
            crate::progress(format_args!("{error:#}"));
        }
    }
}
