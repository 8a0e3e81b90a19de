//! What a process uses, as Linux counts it.

use anyhow::Context;

/// The memory and the writes of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resources {
    /// Resident now.
    pub(super) resident_bytes: u64,
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
        let resident_kib = field(&read("status")?, "VmRSS:").context("no VmRSS")?;
        let written_bytes = field(&read("io")?, "write_bytes:").context("no write_bytes")?;
        Ok(Resources { resident_bytes: resident_kib * 1024, written_bytes })
    }
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory() {
        let used = Resources::of(std::process::id()).unwrap();
        assert!(used.resident_bytes > 1024 * 1024, "{used:?}");
        assert!(Resources::of(u32::MAX).is_err());
    }

    #[test]
    fn a_field_is_the_number_after_its_name() {
        let text = "rchar: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(field(text, "write_bytes:"), Some(4096));
        assert_eq!(field(text, "VmRSS:"), None);
    }
}
