//! Small programs of the system that a run calls.

use std::ffi::{OsStr, OsString};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::process::Command;

/// A program that a run may need, and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its file's name.
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
}

/// What nodes in namespaces need.
pub const FOR_NAMESPACES: &[Program] = &[
    Program { name: "unshare", package: "util-linux" },
    Program { name: "nsenter", package: "util-linux" },
    Program { name: "mount", package: "mount" },
    Program { name: "ip", package: "iproute2" },
];
/// What disks of the nodes' own need.
pub const FOR_DISKS: &[Program] = &[
    Program { name: "mount", package: "mount" },
    Program { name: "umount", package: "mount" },
    Program { name: "mkfs.ext4", package: "e2fsprogs" },
    Program { name: "cc", package: "gcc" },
];

/// Which of these programs cannot be found, with the package that has each.
pub fn missing(programs: &[Program]) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| {
        let sbin = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
        std::env::split_paths(&path).chain(sbin).any(|folder| folder.join(name).is_file())
    };
    let lacking = programs.iter().filter(|program| !is_there(program.name));
    lacking.map(|program| format!("{} (package {})", program.name, program.package)).collect()
}

/// Runs a program to its end.
///
/// # Errors
///
/// If it cannot be started, or fails: with what it said.
pub async fn run(
    program: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> anyhow::Result<String> {
    let arguments: Vec<OsString> =
        arguments.into_iter().map(|one| one.as_ref().to_owned()).collect();
    let mut command = Command::new(program);
    command.args(&arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let words: Vec<_> = arguments.iter().map(|one| one.to_string_lossy()).collect();
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed ({}): {}", words.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
