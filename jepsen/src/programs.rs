//! Small programs of the system that a run calls.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
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

/// The `quorate` that was built together with this program: it lies beside it.
pub fn quorate() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    here.with_file_name("quorate")
}

/// Which of these programs cannot be found, with the package that has each.
pub fn missing(programs: &[Program]) -> Vec<String> {
    let folders = folders();
    let is_there = |name: &str| folders.iter().any(|folder| folder.join(name).is_file());
    let lacking = programs.iter().filter(|program| !is_there(program.name));
    lacking.map(|program| format!("{} (package {})", program.name, program.package)).collect()
}

/// Where programs are looked for: where the user's are, and then the system's, which not every user has in PATH.
fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).collect()
}

/// A program to be started; it finds others as this does.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Ok(path) = std::env::join_paths(folders()) {
        command.env("PATH", path);
    }
    command
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
    let mut command = command(program);
    command.args(&arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let words: Vec<_> = arguments.iter().map(|one| one.to_string_lossy()).collect();
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed ({}): {}", words.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
