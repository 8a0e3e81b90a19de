//! What a process uses, as Linux counts it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// Ticks of `/proc/PID/stat`: USER_HZ, which is 100 on every architecture that Linux and Rust share.
const TICKS_PER_SECOND: u64 = 100;

/// The memory, the processor time and the writes of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resources {
    /// Resident now.
    pub(super) resident_bytes: u64,
    /// Most that was ever resident.
    pub(super) resident_bytes_peak: u64,
    /// On processors so far, all threads together; to a hundredth of a second.
    pub(super) cpu: Duration,
    /// Handed to the block layer so far, by write or by write-back of pages that this process made dirty.
    pub(super) written_bytes: u64,
}

impl Resources {
    /// Of a process of this user.
    pub(super) fn of(pid: u32) -> anyhow::Result<Resources> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let status = read("status")?;
        let memory = |name: &str| {
            let kib = field(&status, name).with_context(|| format!("no {name}"))?;
            anyhow::Ok(kib * 1024)
        };
        let written_bytes = field(&read("io")?, "write_bytes:").context("no write_bytes")?;
        let cpu = cpu(&read("stat")?).context("no processor time")?;
        Ok(Resources {
            resident_bytes: memory("VmRSS:")?,
            resident_bytes_peak: memory("VmHWM:")?,
            cpu,
            written_bytes,
        })
    }
}

/// The bytes of all files below a folder. Files that go away meanwhile do not count.
pub(super) fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of_entry = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of_entry).sum()
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// User and system time: the 14th and 15th value of `/proc/PID/stat`. The second is the program's name in brackets,
/// which may hold anything.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut values = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = values.next()?.ok()? + values.next()?.ok()?;
    Some(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory() {
        let used = Resources::of(std::process::id()).unwrap();
        assert!(used.resident_bytes > 1024 * 1024, "{used:?}");
        assert!(used.resident_bytes_peak >= used.resident_bytes, "{used:?}");
        assert!(Resources::of(u32::MAX).is_err());
    }

    #[test]
    fn a_field_is_the_number_after_its_name() {
        let text = "rchar: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(field(text, "write_bytes:"), Some(4096));
        assert_eq!(field(text, "VmRSS:"), None);
    }

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu("7 (x) S 1"), None);
    }

    #[test]
    fn files_count_below_folders() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("inner")).unwrap();
        std::fs::write(folder.path().join("a"), [0; 10]).unwrap();
        std::fs::write(folder.path().join("inner/b"), [0; 5]).unwrap();
        assert_eq!(disk_bytes(folder.path()), 15);
        assert_eq!(disk_bytes(&folder.path().join("absent")), 0);
    }
}
