//! The shim of `faultfs/`, built once for each run of the tests, and a program under it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;

struct Built {
    shim: PathBuf,
    cut: PathBuf,
    _dir: TempDir,
}

fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dir = scratch();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("faultfs/faultfs.c");
        let compile = |output: &str, arguments: &[&str]| {
            let output = dir.path().join(output);
            let mut command = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
            command.arg("-O1").arg("-o").arg(&output).arg(&source).args(arguments);
            let status = command.status().expect("there is a C compiler");
            assert!(status.success(), "{command:?}");
            output
        };
        let shim = compile("faultfs.so", &["-shared", "-fPIC", "-ldl", "-lpthread"]);
        let cut = compile("faultfs-cut", &["-DFAULTFS_CUT"]);
        Built { shim, cut, _dir: dir }
    })
}

/// Where syncs cost nothing, if there is such a place: what they do is counted, not measured.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// A disk that loses power.
pub struct Disk {
    dir: TempDir,
}

/// How a program under the shim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Finished,
    /// At the step, or at the crash point.
    Crashed,
}

impl Disk {
    pub fn new() -> Disk {
        let dir = scratch();
        for folder in ["data", "state"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        Disk { dir }
    }

    /// The folder that is watched.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A file that no power cut touches.
    pub fn notes(&self) -> PathBuf {
        self.dir.path().join("notes")
    }

    /// Runs a program that dies in place of this step; 0 for none.
    pub fn run(&self, mut program: Command, crash_at: u64) -> End {
        program.env("LD_PRELOAD", &built().shim);
        program.env("FAULTFS_DIR", self.data()).env("FAULTFS_STATE", self.dir.path().join("state"));
        program.env("FAULTFS_IGNORE", "LOG").env("FAULTFS_CRASH_AT", crash_at.to_string());
        let output = program.stdin(Stdio::null()).output().unwrap();
        match output.status.signal() {
            Some(SIGKILL | SIGABRT) => End::Crashed,
            None if output.status.success() => End::Finished,
            _ => panic!("{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat())),
        }
    }

    /// A program that runs another one, with its arguments, on this disk.
    pub fn under(&self, program: &Path) -> PathBuf {
        let wrapped = self.dir.path().join("wrapped");
        let (data, state) = (self.data(), self.dir.path().join("state"));
        let script = format!(
            "#!/bin/sh\nexec env LD_PRELOAD='{}' FAULTFS_DIR='{}' FAULTFS_STATE='{}' FAULTFS_CONTROL='{}' \
             FAULTFS_IGNORE=LOG '{}' \"$@\"\n",
            built().shim.display(),
            data.display(),
            state.display(),
            self.control().display(),
            program.display(),
        );
        fs::write(&wrapped, script).unwrap();
        fs::set_permissions(&wrapped, fs::Permissions::from_mode(0o700)).unwrap();
        wrapped
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// Lets no sync end that begins from now on.
    pub fn hang(&self) {
        fs::write(self.control(), "hang").unwrap();
    }

    /// Steps of the program that ran last.
    pub fn steps(&self) -> u64 {
        let steps = fs::read(self.dir.path().join("state/steps")).unwrap();
        u64::from_ne_bytes(steps.try_into().unwrap())
    }

    /// Cuts the power: everything unsynced is lost, or with a seed some of it, pages in the middle of files too.
    pub fn cut(&self, seed: u64) {
        let mut command = Command::new(&built().cut);
        command.arg(self.dir.path().join("state")).arg(self.data()).arg(seed.to_string());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell writes, syncs and renames; what is left is what it had synced.
    #[test]
    fn a_cut_takes_what_was_not_synced() {
        let script = "
            printf kept > old; printf first > synced; sync old; sync synced; sync .
            printf second >> synced; printf lost > never; printf new > next; sync next
            mv next old; rm synced";
        let disk = Disk::new();
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).current_dir(disk.data());
        assert_eq!(disk.run(shell, 0), End::Finished);
        disk.cut(0);
        let read = |name: &str| fs::read_to_string(disk.data().join(name)).ok();
        assert_eq!(read("old").as_deref(), Some("kept"), "the rename is undone");
        assert_eq!(read("synced").as_deref(), Some("first"), "the removal is undone");
        assert_eq!(read("never"), None);
    }

    /// Pages that were not synced are there or are zeros, and the file ends anywhere among them.
    #[test]
    fn a_cut_may_leave_holes() {
        const SYNCED: usize = 100;
        const PAGE: usize = 4096;
        let script = "
            printf %100s | tr ' ' a > file; sync file; sync .
            printf %60000s | tr ' ' b >> file";
        let mut seeds_with_holes = 0;
        for seed in 1..=20 {
            let disk = Disk::new();
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(script).current_dir(disk.data());
            assert_eq!(disk.run(shell, 0), End::Finished);
            disk.cut(seed);
            let left = fs::read(disk.data().join("file")).unwrap();
            assert!(left.len() >= SYNCED && left[..SYNCED].iter().all(|byte| *byte == b'a'));
            let (first, rest) = left.split_at(left.len().min(PAGE));
            let pages = std::iter::once(&first[SYNCED..]).chain(rest.chunks(PAGE));
            let is_hole = |page: &&[u8]| page.contains(&0);
            let holes: Vec<_> = pages.filter(is_hole).collect();
            assert!(holes.concat().iter().all(|byte| *byte == 0), "seed {seed}: half a page");
            seeds_with_holes += u64::from(!holes.is_empty());
        }
        assert!((3..=17).contains(&seeds_with_holes), "{seeds_with_holes} of 20 seeds");
    }

    #[test]
    fn a_program_dies_in_place_of_a_step() {
        let disk = Disk::new();
        let shell = || {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg("printf a > one; printf b > two").current_dir(disk.data());
            shell
        };
        assert_eq!(disk.run(shell(), 3), End::Crashed);
        assert!(disk.data().join("one").exists() && !disk.data().join("two").exists());
        assert_eq!(disk.steps(), 3);
    }
}
