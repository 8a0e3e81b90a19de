//! What is preloaded into nodes: C, because that is the only place where a program's calls of the system can be
//! answered otherwise. `shim/faults.c` says what it does; this steers it, through a file that both have mapped.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::programs::run;

const FAULTS: &str = include_str!("../../shim/faults.c");
const POWERCUT: &str = include_str!("../../shim/powercut.c");

/// Where the numbers are in the file: the layout of `struct control`.
const AT_CLOCK_AHEAD: u64 = 0;
const AT_SYNCS_FAIL: u64 = 8;
const AT_SYNC_DELAY: u64 = 12;
const AT_SYNCS: u64 = 16;
const AT_SYNCS_FAILED: u64 = 24;
const AT_SYNCS_DELAYED: u64 = 32;
const AT_CLOCK_READS_AHEAD: u64 = 40;
const AT_READS_FAIL: u64 = 48;
const AT_READS_FAILED: u64 = 56;
const AT_FILES: usize = 4_096;
const SLOTS: usize = 65_536;
const SLOT_BYTES: usize = 16;

/// The two programs that are compiled for a run.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// To be preloaded.
    pub faults: PathBuf,
    /// Cuts the power of a file system.
    pub powercut: PathBuf,
}

/// Compiles both into a folder.
///
/// # Errors
///
/// If there is no C compiler, or it refuses.
pub async fn compile(folder: &Path) -> anyhow::Result<Compiled> {
    let source = folder.join("faults.c");
    let faults = folder.join("faults.so");
    std::fs::write(&source, FAULTS)?;
    let how = ["-shared", "-fPIC", "-O2", "-o"].map(PathBuf::from);
    let what = [faults.clone(), source, PathBuf::from("-ldl")];
    run("cc", how.iter().chain(&what)).await.context("the shim was not compiled")?;

    let source = folder.join("powercut.c");
    let powercut = folder.join("powercut");
    std::fs::write(&source, POWERCUT)?;
    let how = ["-O2", "-o"].map(PathBuf::from);
    run("cc", how.iter().chain(&[powercut.clone(), source])).await?;
    Ok(Compiled { faults, powercut })
}

/// The shim of one node.
pub struct Shim {
    library: PathBuf,
    path: PathBuf,
    file: File,
}

/// What a shim has counted since it was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShimCounts {
    /// Syncs asked for.
    pub syncs: u64,
    /// Of those, failed on purpose.
    pub failed: u64,
    /// Of those, delayed on purpose.
    pub delayed: u64,
    /// Looks at the wall clock that were answered with another time.
    pub clock_reads_ahead: u64,
    /// Reads of stored data that were failed on purpose.
    pub reads_failed: u64,
}

impl Shim {
    /// Makes the file through which a node's shim is steered.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn new(compiled: &Compiled, path: PathBuf) -> anyhow::Result<Shim> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        file.set_len((AT_FILES + SLOTS * SLOT_BYTES) as u64)?;
        Ok(Shim { library: compiled.faults.clone(), path, file })
    }

    /// What a node's environment has to hold.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.library.clone()), ("JEPSEN_SHIM", self.path.clone())]
    }

    /// Lets the wall clock be this far ahead, or behind.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn set_clock_ahead_ms(&self, ahead_ms: i64) -> anyhow::Result<()> {
        let ahead_ns = ahead_ms * 1_000_000;
        Ok(self.file.write_all_at(&ahead_ns.to_ne_bytes(), AT_CLOCK_AHEAD)?)
    }

    /// Lets every sync fail with an input/output error, or none.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn set_syncs_fail(&self, fail: bool) -> anyhow::Result<()> {
        Ok(self.file.write_all_at(&u32::from(fail).to_ne_bytes(), AT_SYNCS_FAIL)?)
    }

    /// Lets every read of tables and large values fail with an input/output error, or none.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn set_reads_fail(&self, fail: bool) -> anyhow::Result<()> {
        Ok(self.file.write_all_at(&u32::from(fail).to_ne_bytes(), AT_READS_FAIL)?)
    }

    /// Lets every sync take this much longer.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn set_sync_delay_ms(&self, delay_ms: u32) -> anyhow::Result<()> {
        let delay_us = delay_ms * 1_000;
        Ok(self.file.write_all_at(&delay_us.to_ne_bytes(), AT_SYNC_DELAY)?)
    }

    /// Mends everything.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn mend(&self) -> anyhow::Result<()> {
        self.set_clock_ahead_ms(0)?;
        self.set_syncs_fail(false)?;
        self.set_reads_fail(false)?;
        self.set_sync_delay_ms(0)
    }

    /// Removes the file.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    pub fn remove(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(&self.path)?)
    }

    /// What was counted.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn counts(&self) -> anyhow::Result<ShimCounts> {
        let number = |at| -> anyhow::Result<u64> {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, at)?;
            Ok(u64::from_ne_bytes(bytes))
        };
        Ok(ShimCounts {
            syncs: number(AT_SYNCS)?,
            failed: number(AT_SYNCS_FAILED)?,
            delayed: number(AT_SYNCS_DELAYED)?,
            clock_reads_ahead: number(AT_CLOCK_READS_AHEAD)?,
            reads_failed: number(AT_READS_FAILED)?,
        })
    }

    /// How many bytes of each file, by inode, were synced.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn synced(&self) -> anyhow::Result<HashMap<u64, u64>> {
        let mut table = vec![0; SLOTS * SLOT_BYTES];
        self.file.read_exact_at(&mut table, AT_FILES as u64)?;
        let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        let slots = table.chunks_exact(SLOT_BYTES);
        let slots = slots.map(|slot| (number(&slot[..8]), number(&slot[8..])));
        Ok(slots.filter(|(inode, _)| *inode != 0).collect())
    }
}
